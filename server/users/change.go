package users

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"attestcsr/config"
	"attestcsr/csr"
	"attestcsr/handler/auth"
	"attestcsr/keystore/ownfile"
	"attestcsr/server/control"
)

// Change changes the files as a command asks. The caller keeps others from changing those
// of data_dir. record is called once, with the privileges that are given or taken away,
// when nothing is left that can be wrong with the change but the disk: everything is
// checked, and the new files are complete beside the old ones. A change of nothing is
// none, and has no record.
//
// Each file is replaced at once, and a crash leaves it as it was or as it will be. Where
// two files change, a crash between them leaves an entry of privileges without a user,
// which lets nobody in and goes with the next change of a user of that name.
func (f Files) Change(ctx context.Context, c control.UserChange, record func(privileges []string) error) (err error) {
	var locked *operators
	if f.Operators != "" {
		if locked, err = lockOperators(ctx, f.Operators); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, locked.unlock()) }()
	}
	now, err := f.Read()
	if err != nil {
		return err
	}
	next, privileges, err := now.with(c)
	if err != nil {
		return err
	}
	files, err := next.prepare(now, locked, c.Action == control.RemoveUser)
	defer func() {
		for _, p := range files {
			err = errors.Join(err, p.Discard())
		}
	}()
	if err != nil || len(files) == 0 {
		return err
	}
	if locked != nil && locked.changed() {
		return fmt.Errorf("%s was changed meanwhile by another program: run the command again", f.Operators)
	}
	if err := record(privileges); err != nil {
		return err
	}
	if next.admin != nil {
		if err := f.removeInitialPassword(); err != nil { // it opens nothing any more
			return err
		}
	}
	for _, p := range files {
		if err := p.Place(); err != nil {
			return p.explain(err)
		}
	}
	return nil
}

// prepared is a file of a change.
type prepared struct {
	*ownfile.Prepared
	explain func(error) error
}

// texts are what a change leaves in the files.
type texts struct {
	files Files
	users []byte
	laid  map[string][]string
	admin []byte // nil: as before
}

// with returns what a change makes of the content, and the privileges that it gives or
// takes away.
func (c *Content) with(change control.UserChange) (next texts, privileges []string, err error) {
	next = texts{files: c.files, users: c.text, laid: maps.Clone(c.laid)}
	if privileges, err = c.files.known(change.Privileges); err != nil {
		return next, nil, err
	}
	if err := c.allows(change); err != nil {
		return next, nil, err
	}
	name, line := change.Name, change.Name+":"+change.Hash
	if one, err := auth.ParseUsers([]byte(line)); change.Hash != "" && (err != nil || len(one.Names()) != 1) {
		return next, nil, errors.New("the hash of the password is not one line of bcrypt")
	}
	has := c.Privileges[name]
	switch change.Action {
	case control.AddUser:
		next.users = edit(c.text, name, line)
		delete(next.laid, name) // of an earlier user of that name
		if len(privileges) > 0 {
			next.laid[name] = privileges
		}
	case control.RemoveUser:
		next.users = edit(c.text, name, "")
		delete(next.laid, name)
	case control.SetPassword:
		if c.files.builtIn(name) {
			next.admin = []byte(line + "\n")
		} else {
			next.users = edit(c.text, name, line)
		}
	case control.Grant:
		privileges = without(privileges, has)
		next.laid[name] = c.files.inOrder(slices.Concat(has, privileges))
	case control.Revoke:
		left := without(has, privileges)
		if err := reallyRevoked(name, privileges, left); err != nil {
			return next, nil, err
		}
		privileges = without(privileges, without(privileges, has))
		next.laid[name] = c.files.inOrder(left)
	default:
		return next, nil, fmt.Errorf("%.64q is nothing that can be done to a user", change.Action)
	}
	if (change.Action == control.Grant || change.Action == control.Revoke) && len(privileges) == 0 {
		next.laid = c.laid // as it is: nothing is given or taken away
	}
	return next, privileges, next.check()
}

// allows refuses what the state of a user does not allow.
func (c *Content) allows(change control.UserChange) error {
	name := change.Name
	exists := slices.Contains(c.Users.Names(), name)
	switch {
	case change.Action == control.AddUser && exists:
		return fmt.Errorf("there is a user %q already: attestcsr user password and user grant change what that user has", name)
	case change.Action == control.AddUser:
		if err := auth.CheckName(name); err != nil {
			return fmt.Errorf("%.64q cannot be a user: %w", name, err)
		}
		return nil
	case !exists:
		return fmt.Errorf("there is no user %.64q: attestcsr user list shows all", name)
	case c.files.builtIn(name) && change.Action == control.SetPassword:
		return c.files.OwnPassword()
	case c.files.builtIn(name) && change.Action == control.RemoveUser:
		return fmt.Errorf("%s is built in and stays: with auth.users_file there are only the users of that file", name)
	case c.files.builtIn(name):
		return fmt.Errorf("%s is built in: an entry in auth.privileges says what it may do, and without one it may do everything", name)
	case change.Action == control.RemoveUser && c.files.Operators != "" && len(c.Users.Names()) == 1:
		return fmt.Errorf("%q is the only user in %s, without whom nobody could log in: add another one first", name, c.files.Operators)
	}
	return nil
}

// known returns privileges in their order, once each, and refuses others.
func (f Files) known(privileges []string) ([]string, error) {
	if unknown := without(privileges, f.Privileges); len(unknown) > 0 {
		return nil, fmt.Errorf("%.64q is not a privilege: there are %s", unknown[0], strings.Join(f.Privileges, ", "))
	}
	return f.inOrder(privileges), nil
}

// inOrder returns privileges in the order of all, once each.
func (f Files) inOrder(privileges []string) []string {
	return without(f.Privileges, without(f.Privileges, privileges))
}

// without returns the elements of a list that are not in the other.
func without(list, other []string) (left []string) {
	for _, s := range list {
		if !slices.Contains(other, s) {
			left = append(left, s)
		}
	}
	return left
}

// reallyRevoked refuses to take a privilege away that another one includes.
func reallyRevoked(name string, revoked, left []string) error {
	caller := csr.Caller{}
	for _, p := range left {
		caller.Privileges = append(caller.Privileges, csr.Privilege(p))
	}
	for _, p := range revoked {
		if caller.Holds(csr.Privilege(p)) {
			return fmt.Errorf("%s would still have %s, since %s includes it: revoke that one too", name, p, strings.Join(left, " or "))
		}
	}
	return nil
}

// check refuses texts that could not be read again.
func (t texts) check() error {
	if _, err := auth.ParseUsers(t.users); err != nil {
		return fmt.Errorf("%s would not be right any more: %w", t.files.Users(), err)
	}
	if _, err := auth.ParseUsers(t.admin); err != nil {
		return fmt.Errorf("%s would not be right any more: %w", t.files.path(AdminHashFile), err)
	}
	if size := len(t.privileges()); size > maxPrivileges {
		return fmt.Errorf("%s would have %d bytes, and may have %d: give fewer users privileges of their own", t.files.path(PrivilegesFile), size, maxPrivileges)
	}
	return nil
}

// privileges is the text of PrivilegesFile.
func (t texts) privileges() []byte {
	return append([]byte("# What users may do. An entry here replaces that of auth.privileges. Written by attestcsr user.\n"), config.FormatPrivileges(t.laid)...)
}

// prepare makes those files that differ from what there is now, in the order in which they
// have to take their places.
func (t texts) prepare(now *Content, locked *operators, usersFirst bool) (files []prepared, err error) {
	add := func(ready func(string, []byte) (*ownfile.Prepared, error), path string, text []byte, explain func(error) error) {
		if err != nil {
			return
		}
		var p *ownfile.Prepared
		if p, err = ready(path, text); err != nil {
			err = explain(err)
			return
		}
		files = append(files, prepared{p, explain})
	}
	asItIs := func(err error) error { return err }
	if !maps.EqualFunc(t.laid, now.laid, slices.Equal) {
		add(ownfile.Prepare, t.files.path(PrivilegesFile), t.privileges(), asItIs)
	}
	switch {
	case t.admin != nil:
		add(ownfile.Prepare, t.files.path(AdminHashFile), t.admin, asItIs)
	case bytes.Equal(t.users, now.text):
	case locked != nil:
		add(ownfile.PrepareLike, locked.real, t.users, locked.explain)
	default:
		add(ownfile.Prepare, t.files.path(File), t.users, asItIs)
	}
	if usersFirst {
		slices.Reverse(files)
	}
	return files, err
}

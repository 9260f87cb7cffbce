package model_test

import (
	"crypto"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"pgregory.net/rapid"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// model drives a running service and the world that it is compared with.
type model struct {
	*world
	t         *testing.T
	launch    func() *start.Instance
	service   *start.Instance
	ca        *authority
	discarded crypto.PublicKey         // of a CSR that is no more
	took      map[string]time.Duration // what an operation that succeeded took last, by kind
	counts    *modelCounts
}

type modelCounts struct{ operations, crashes, unanswered, survived int }

// TestModel: any sequence of operations of both dialects, with crashes in the
// middle of some, does to the service what it does to a few maps.
func TestModel(t *testing.T) {
	t.Parallel()
	setRapid(t, "rapid.checks", kit.Effort(6, 60))
	setRapid(t, "rapid.steps", kit.Effort(60, 100))
	dir := t.TempDir()
	binary := start.Binary(t)
	modelSettings(t, dir)
	template := filepath.Join(dir, "template")
	launch := func(data string) *start.Instance {
		s := start.LaunchBinary(t, binary, data, "--config", filepath.Join(dir, "config.yaml"))
		if err := s.WaitReady(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := launch(template).Stop(); err != nil {
		t.Fatal(err)
	}
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	counts, took := &modelCounts{}, map[string]time.Duration{}
	rapid.Check(t, func(rt *rapid.T) {
		data := t.TempDir()
		if err := os.CopyFS(data, os.DirFS(template)); err != nil {
			rt.Fatal(err)
		}
		if err := private(data); err != nil {
			rt.Fatal(err)
		}
		m := &model{t: t, ca: ca, counts: counts, took: took, launch: func() *start.Instance { return launch(data) }, world: &world{csrs: map[string]*named{}, certs: map[string]*named{}}}
		m.service = m.launch()
		defer func() { m.service.Kill() }()
		begin, err := observe(m.service)
		if err != nil {
			rt.Fatal(err)
		}
		m.installed = begin.installed
		m.check(rt)
		rt.Repeat(m.actions())
	})
	kit.Count(t, "model operations", counts.operations)
	kit.Count(t, "crashes", counts.crashes)
	t.Logf("%d operations were not answered, %d of them are known to have been done", counts.unanswered, counts.survived)
}

// setRapid sets how much rapid does, unless whoever runs the test has.
func setRapid(t *testing.T, name string, n int) {
	t.Helper()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if !given {
		if err := flag.Lookup(name).Value.Set(fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// modelSettings writes a config file and two users, whose hashes are the cheapest.
func modelSettings(t *testing.T, dir string) {
	t.Helper()
	users := ""
	for _, name := range []string{"nora", "olaf"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(name), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		users += name + ":" + string(hash) + "\n"
	}
	kit.Overwrite(t, dir, "users", users)
	kit.Overwrite(t, dir, "config.yaml", start.NoPool+fmt.Sprintf("limits:\n  csrs: %d\n", csrMax)+"log:\n  level: warn\nauth:\n  users_file: "+filepath.Join(dir, "users")+
		"\n  privileges:\n    nora: [SECURITY_MGMT, 'policy_certificate:crud']\n    olaf: ['policy_certificate:crud']\n")
}

// private makes copied files what they were: nobody else's.
func private(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
}

// operations are all that change or show an object, by how they are drawn.
func operations() map[string]func(*rapid.T, *model) *operation {
	return map[string]func(*rapid.T, *model) *operation{
		"create the CSR":     drawCreateCSR,
		"delete the CSR":     drawDeleteCSR,
		"set certificate":    drawSetCertificate,
		"create":             drawCreateNamed,
		"create another":     drawCreateNamed,
		"get":                drawGetNamed,
		"delete":             drawDeleteNamed,
		"import":             drawImport,
		"import another":     drawImport,
		"self-sign":          drawSelfSign,
		"self-sign anew":     drawSelfSignNew,
		"get certificate":    drawGetCertificate,
		"delete certificate": drawDeleteCertificate,
	}
}

func (m *model) actions() map[string]func(*rapid.T) {
	actions := map[string]func(*rapid.T){
		"list":    m.list,
		"crash":   m.crash,
		"restart": m.restart,
		"":        m.check,
	}
	for name, draw := range operations() {
		actions[name] = func(rt *rapid.T) {
			o := draw(rt, m)
			o.kind = name
			m.one(rt, o)
		}
	}
	return actions
}

// one does an operation that is answered.
func (m *model) one(rt *rapid.T, o *operation) {
	m.counts.operations++
	before := m.pending
	o.begun = time.Now()
	r := o.send(m.service)
	o.ended = time.Now()
	if r.status < 300 {
		m.took[o.kind] = o.ended.Sub(o.begun)
	}
	if err := o.apply(m.world).check(r); err != nil {
		rt.Fatalf("%s: %v", o.name, err)
	}
	if before != m.pending {
		m.remember(before)
	}
}

// remember keeps the key of a CSR that is no more.
func (m *model) remember(text string) {
	if r, err := requestOf(text); err == nil {
		m.discarded = r.PublicKey
	}
}

// check compares everything.
func (m *model) check(rt *rapid.T) {
	o, err := observe(m.service)
	if err == nil {
		err = m.world.meet(o)
	}
	if err != nil {
		rt.Fatal(err)
	}
}

// restart ends the service as an orchestrator does.
func (m *model) restart(rt *rapid.T) {
	if !rapid.Bool().Draw(rt, "really") {
		return
	}
	if err := m.service.Stop(); err != nil {
		rt.Fatalf("stop: %v", err)
	}
	m.service = m.launch()
}

// crash sends up to three operations at once and ends the service with SIGKILL
// meanwhile. What was answered has to have happened, in some order; what was not
// may have happened, before or after, or not at all. The next reads decide.
func (m *model) crash(rt *rapid.T) {
	var names []string
	for name := range operations() {
		if !strings.HasPrefix(name, "get") { // which changes nothing
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var batch []*operation
	for range rapid.IntRange(1, 3).Draw(rt, "operations") {
		name := rapid.SampledFrom(names).Draw(rt, "operation")
		o := operations()[name](rt, m)
		o.kind = name
		batch = append(batch, o)
	}
	// What they take here and now decides what is in the middle of them.
	var longest time.Duration
	for _, o := range batch {
		longest = max(longest, m.took[o.kind])
	}
	delay := longest * time.Duration(rapid.IntRange(0, 120).Draw(rt, "percent of the time it takes")) / 100
	replies := m.sendAndKill(rt, batch, delay, rapid.IntRange(0, 3).Draw(rt, "after an answer") == 0)
	before := m.pending
	m.service = m.launch()
	o, err := observe(m.service)
	if err != nil {
		rt.Fatal(err)
	}
	possible := m.possible(nil, m.world, batch, replies)
	if len(possible) == 0 {
		rt.Fatalf("no order of %s explains the answers %v", namesOf(batch), replies)
	}
	var reasons []string
	for _, p := range possible {
		if err := p.world.meet(o); err != nil {
			reasons = append(reasons, fmt.Sprintf("after %v: %v", p.done, err))
			continue
		}
		m.world = p.world
		if before != m.pending {
			m.remember(before)
		}
		for i := range batch {
			if replies[i].err != nil && slices.Contains(p.done, batch[i].name) {
				m.counts.survived++
			}
		}
		return
	}
	rt.Fatalf("after a crash during %s, with the answers %v, none of what can be is:\n%s", namesOf(batch), replies, strings.Join(reasons, "\n"))
}

func namesOf(batch []*operation) string {
	var names []string
	for _, o := range batch {
		names = append(names, o.name)
	}
	return strings.Join(names, ", ")
}

// sendAndKill sends the operations at once, and ends the service after the delay
// or, if that is asked for, as soon as one is answered.
func (m *model) sendAndKill(rt *rapid.T, batch []*operation, delay time.Duration, answered bool) []reply {
	replies := make([]reply, len(batch))
	first := make(chan struct{}, len(batch))
	var group sync.WaitGroup
	for i, o := range batch {
		o.begun = time.Now()
		group.Go(func() {
			replies[i] = o.send(m.service)
			first <- struct{}{}
		})
	}
	if answered {
		<-first
	} else {
		time.Sleep(delay)
	}
	m.service.Kill()
	group.Wait()
	if m.service.Cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		rt.Fatalf("not killed: %v", m.service.Cmd.ProcessState)
	}
	m.counts.crashes++
	m.counts.operations += len(batch)
	for i, o := range batch {
		o.ended = time.Now()
		if replies[i].err != nil {
			m.counts.unanswered++
		}
	}
	return replies
}

// possibility is a world that may be, and the names of the operations that made it.
type possibility struct {
	world *world
	done  []string
}

// possible lists the worlds after every order of the operations that were
// answered and of any others, as far as the answers fit.
func (m *model) possible(done []string, w *world, rest []*operation, replies []reply) []possibility {
	var all []possibility
	owed := false
	for i, o := range rest {
		owed = owed || replies[i].err == nil
		next := w.clone()
		want := o.apply(next)
		if replies[i].err == nil && want.check(replies[i]) != nil {
			continue
		}
		others := slices.Delete(slices.Clone(rest), i, i+1)
		theirs := slices.Delete(slices.Clone(replies), i, i+1)
		all = append(all, m.possible(append(slices.Clone(done), o.name), next, others, theirs)...)
	}
	if !owed {
		all = append([]possibility{{w.clone(), done}}, all...)
	}
	return all
}

// list reads a collection by pages and compares order and counts.
func (m *model) list(rt *rapid.T) {
	m.counts.operations++
	collection, objects := nsxCSRs, m.csrs
	if rapid.Bool().Draw(rt, "certificates") {
		collection, objects = nsxCertificates, m.certs
	}
	sortBy := rapid.SampledFrom([]string{"", "id", "display_name", "_create_time", "_last_modified_time"}).Draw(rt, "sort_by")
	descending, size := rapid.Bool().Draw(rt, "descending"), rapid.IntRange(1, 4).Draw(rt, "page_size")
	query := url.Values{"page_size": {fmt.Sprint(size)}, "sort_ascending": {fmt.Sprint(!descending)}, "included_fields": {"id,display_name"}}
	if sortBy != "" {
		query.Set("sort_by", sortBy)
	}
	var got []string
	for page := 0; ; page++ {
		r := send(m.service, "GET", collection+"?"+query.Encode(), "olaf", "")
		var l listing
		if err := json.Unmarshal(r.body, &l); r.err != nil || r.status != 200 || err != nil {
			rt.Fatalf("list: %v %d %s %v", r.err, r.status, r.body, err)
		}
		if (l.ResultCount != nil) != (page == 0) || page == 0 && *l.ResultCount != len(objects) || l.SortAscending == descending ||
			l.Cursor != "" && len(l.Results) != size || len(l.Results) > size {
			rt.Fatalf("page %d of %d objects: %s", page, len(objects), r.body)
		}
		for _, doc := range l.Results {
			id, _ := doc["id"].(string)
			if n := objects[id]; len(doc) != 2 || n == nil || n.doc["display_name"] != doc["display_name"] {
				rt.Fatalf("listed %v", doc)
			}
			got = append(got, id)
		}
		if l.Cursor == "" {
			break
		}
		query.Set("cursor", l.Cursor)
	}
	if want := inOrder(objects, sortBy, descending); !slices.Equal(got, want) {
		rt.Fatalf("listed by %s, descending %t: %q, want %q", sortBy, descending, got, want)
	}
}

// inOrder are the ids in the order of a list: what is equal goes by id.
func inOrder(objects map[string]*named, sortBy string, descending bool) []string {
	var ids []string
	for id := range objects {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int {
		c := 0
		switch x, y := objects[a].doc[sortBy], objects[b].doc[sortBy]; x := x.(type) {
		case string:
			c = strings.Compare(x, y.(string))
		case float64:
			c = int(x - y.(float64))
		}
		if c == 0 {
			c = strings.Compare(a, b)
		}
		if descending {
			return -c
		}
		return c
	})
	return ids
}

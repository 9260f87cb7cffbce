package model_test

import (
	"crypto"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// model drives a running service and the world that it is compared with.
type model struct {
	*world
	t         *testing.T
	service   *start.Instance
	ca        *kit.CA
	discarded crypto.PublicKey         // of a CSR that is no more
	took      map[string]time.Duration // what an operation that succeeded took last, by how it is drawn
	counts    *counts
}

type counts struct{ operations, crashes, unanswered, survived int }

// TestModel: any sequence of operations of both dialects, with crashes in the
// middle of some, does to the service what it does to a few maps.
func TestModel(t *testing.T) {
	t.Parallel()
	setRapid(t, "rapid.checks", kit.Effort(6, 60))
	setRapid(t, "rapid.steps", kit.Effort(60, 100))
	users := kit.Overwrite(t, t.TempDir(), "users", start.UserLine(t, "nora", "nora")+start.UserLine(t, "olaf", "olaf"))
	o := start.Options{Binary: start.Binary(t), Config: start.Config(t, fmt.Sprintf("limits:\n  csrs: %d\nlog:\n  level: warn\n"+
		"auth:\n  users_file: %s\n  privileges:\n    nora: [SECURITY_MGMT, 'policy_certificate:crud']\n    olaf: ['policy_certificate:crud']\n", csrMax, users))}
	prepared := start.Prepare(t, o)
	ca := kit.NewCA(t, "Test CA", time.Now())
	counts, took := &counts{}, map[string]time.Duration{}
	rapid.Check(t, func(rt *rapid.T) {
		o := o
		o.DataDir = filepath.Join(t.TempDir(), "data")
		start.CopyData(t, prepared, o.DataDir)
		m := &model{t: t, ca: ca, counts: counts, took: took, service: start.Serve(t, o), world: &world{csrs: map[string]*named{}, certs: map[string]*named{}}}
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

func (m *model) actions() map[string]func(*rapid.T) {
	actions := map[string]func(*rapid.T){
		"crash":   m.crash,
		"restart": m.restart,
		"":        m.check,
	}
	for name, draw := range operations() {
		actions[name] = func(rt *rapid.T) {
			m.one(rt, name, draw(rt, m))
		}
	}
	return actions
}

// one does an operation that is answered.
func (m *model) one(rt *rapid.T, kind string, o *operation) {
	m.counts.operations++
	before, begun := m.pending, time.Now()
	r := o.send(m.service)
	if r.status < 300 {
		m.took[kind] = time.Since(begun)
	}
	if err := o.apply(m.world).check(r); err != nil {
		rt.Fatalf("%s: %v", o.name, err)
	}
	m.remember(before)
}

// remember keeps the key of a CSR that is pending no more.
func (m *model) remember(before string) {
	if before != "" && before != m.pending {
		m.discarded = keyOf(before)
	}
}

// check compares everything.
func (m *model) check(rt *rapid.T) {
	o, err := observe(m.service)
	if err == nil {
		err = m.world.accept(o)
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
	m.service = m.service.Again()
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
	var longest time.Duration // what they take here and now decides what is in the middle of them
	for range rapid.IntRange(1, 3).Draw(rt, "operations") {
		name := rapid.SampledFrom(names).Draw(rt, "operation")
		batch = append(batch, operations()[name](rt, m))
		longest = max(longest, m.took[name])
	}
	delay := longest * time.Duration(rapid.IntRange(0, 120).Draw(rt, "percent of the time it takes")) / 100
	replies := m.sendAndKill(rt, batch, delay, rapid.IntRange(0, 3).Draw(rt, "after an answer") == 0)
	before := m.pending
	m.service = m.service.Again()
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
		if err := p.world.accept(o); err != nil {
			reasons = append(reasons, fmt.Sprintf("after %v: %v", p.done, err))
			continue
		}
		m.world = p.world
		m.remember(before)
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
	if !m.service.Killed() {
		rt.Fatalf("not killed: %v", m.service.Cmd.ProcessState)
	}
	m.counts.crashes++
	m.counts.operations += len(batch)
	for i := range batch {
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

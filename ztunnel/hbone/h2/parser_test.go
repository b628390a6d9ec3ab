// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// seen is a frame as one of the two parsers understood it.
type seen struct {
	FrameHeader
	payload string
}

// parse cuts b into pieces of at most step bytes before it parses them.
func parse(b []byte, step int) (frames []seen, err error) {
	p := Parser{HeaderLimit: ServerHeaderLimit}
	var data []byte
	for len(b) > 0 {
		chunk := b[:min(step, len(b))]
		b = b[len(chunk):]
		for len(chunk) > 0 {
			pc, n, ok, err := p.Next(chunk)
			if err != nil {
				return frames, err
			}
			chunk = chunk[n:]
			if !ok {
				continue
			}
			if data = append(data, pc.Payload...); pc.Last {
				frames = append(frames, seen{pc.FrameHeader, string(data)})
				data = nil
			}
		}
	}
	return frames, nil
}

// oracle is what x/net's Framer makes of the same bytes.
func oracle(b []byte) (frames []seen, err error) {
	fr := http2.NewFramer(nil, bytes.NewReader(b))
	fr.SetMaxReadFrameSize(FrameLimit)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return frames, err
		}
		h := f.Header()
		s := seen{FrameHeader: FrameHeader{int(h.Length), Kind(h.Type), uint8(h.Flags), h.StreamID}}
		switch f := f.(type) {
		case *http2.DataFrame:
			s.payload = string(f.Data())
		case *http2.HeadersFrame:
			s.payload = string(f.HeaderBlockFragment())
		case *http2.ContinuationFrame:
			s.payload = string(f.HeaderBlockFragment())
		}
		frames = append(frames, s)
	}
}

// compare checks that both see the same frames, up to the first that either refuses.
func compare(t *testing.T, b []byte, step int) {
	t.Helper()
	ours, err := parse(b, step)
	theirs, oracleErr := oracle(b)
	for i := range min(len(ours), len(theirs)) {
		got, want := ours[i], theirs[i]
		switch want.Kind {
		case KindData, KindHeaders, KindContinuation:
		default:
			got.payload = "" // the Framer has taken it apart
		}
		if got != want {
			t.Fatalf("frame %d: %+v, oracle: %+v", i, got, want)
		}
	}
	var bad *Violation
	limit := errors.As(err, &bad) && (bad.Code == CodeCalm || strings.Contains(bad.Reason, "PUSH_PROMISE") ||
		strings.Contains(bad.Reason, "type 7")) // a GOAWAY longer than we care for
	// What is refused must be so by both. The Framer calls some errors
	// those of a stream, which end nothing there; and it learns of an
	// end of input, which is none here.
	var streamError http2.StreamError
	switch {
	case limit || errors.As(oracleErr, &streamError):
	case err == nil && len(ours) < len(theirs):
		t.Fatalf("we see %d frames, the oracle %d", len(ours), len(theirs))
	case len(ours) > len(theirs) && (ours[len(theirs)].Kind == KindWindowUpdate || ours[len(theirs)].Kind == KindSettings):
		// A value out of range: the tunnel refuses it, not the parser.
	case len(ours) > len(theirs) && ours[len(theirs)].Kind > KindContinuation:
		// A type that the Framer knows, and we ignore.
	case err == nil && len(ours) > len(theirs):
		t.Fatalf("we accept frame %d %+v, the oracle says %v", len(theirs), ours[len(theirs)], oracleErr)
	case err != nil && len(ours) < len(theirs):
		t.Fatalf("we refuse frame %d: %v, the oracle reads %+v", len(ours), err, theirs[len(ours)])
	}
}

func sampleFrames() []byte {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	fr.AllowIllegalWrites = true
	fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	fr.WriteSettingsAck()
	fr.WriteData(1, false, []byte("hello"))
	fr.WriteData(1, true, nil)
	fr.WriteDataPadded(3, false, []byte("padded"), make([]byte, 9))
	fr.WriteDataPadded(3, false, nil, make([]byte, 3))
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: []byte{0x88}, EndHeaders: true, PadLength: 4,
		Priority: http2.PriorityParam{StreamDep: 1, Weight: 5}})
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 7, BlockFragment: []byte{0x88}})
	fr.WriteContinuation(7, false, []byte("abc"))
	fr.WriteContinuation(7, true, nil)
	fr.WriteRSTStream(7, http2.ErrCodeCancel)
	fr.WritePing(false, [8]byte{1})
	fr.WriteWindowUpdate(0, 77)
	fr.WritePriority(9, http2.PriorityParam{Weight: 1})
	fr.WriteRawFrame(0xee, 3, 11, []byte("unknown"))
	fr.WriteGoAway(11, http2.ErrCodeNo, []byte("bye"))
	return b.Bytes()
}

func TestFramesAreCutAlikeHoweverTheyAreSplit(t *testing.T) {
	b := sampleFrames()
	whole, err := parse(b, len(b))
	if err != nil {
		t.Fatal(err)
	}
	for step := 1; step < 40; step++ {
		split, err := parse(b, step)
		if err != nil || fmt.Sprint(split) != fmt.Sprint(whole) {
			t.Fatalf("in steps of %d: %v, %v, want %v", step, split, err, whole)
		}
		compare(t, b, step)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(sampleFrames(), uint8(7))
	f.Add(AppendSettings(nil, Setting{1, 2}), uint8(1))
	f.Add(AppendFrame(nil, 4, KindData, FlagPadded, 1), uint8(1))
	f.Add(append(AppendFrame(nil, 5, KindHeaders, FlagPadded|FlagPriority, 1), 200, 1, 2, 3, 4), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		compare(t, b, int(step)+1)
	})
}

func TestWhatWeEncodeIsDecodedByHPACK(t *testing.T) {
	for _, size := range []int{0, 1, 126, 127, 128, 254, 255, 300, 4000} {
		want := Target{
			Authority: netip.MustParseAddrPort("[fd00::1]:65535"),
			Header:    Header{Baggage: strings.Repeat("b", size), Forwarded: `for="10.0.0.1:1"`, Traceparent: "00-"},
		}
		fields, err := hpack.NewDecoder(0, nil).DecodeFull(AppendConnect(nil, want))
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		for _, f := range fields {
			got[f.Name] = f.Value
		}
		if got[":method"] != "CONNECT" || got[":authority"] != "[fd00::1]:65535" || got["baggage"] != want.Header.Baggage ||
			got["forwarded"] != want.Header.Forwarded || got["traceparent"] != want.Header.Traceparent {
			t.Errorf("size %d: %v", size, fields)
		}
		f, err := NewDecoder(ServerHeaderLimit).Decode(AppendConnect(nil, want))
		if err != nil || f.problem != "" {
			t.Fatal(err, f.problem)
		}
		if target, status := f.Request(want.Authority.Addr()); status != 0 || target != want {
			t.Errorf("%+v, status %d, want %+v", target, status, want)
		}
	}
	for _, status := range []int{200, 400, 401, 503} {
		f, err := NewDecoder(ClientHeaderLimit).Decode(AppendStatus(nil, status))
		if got, bad := f.Answer(); err != nil || bad != "" || got != status {
			t.Errorf("status %d: %d, %v, %v", status, got, err, bad)
		}
	}
}

func TestLongHeaderBlocksAreContinued(t *testing.T) {
	block := bytes.Repeat([]byte("0123456789"), 100)
	frames, err := parse(AppendBlock(nil, 5, FlagEndStream, block, 300), 1<<20)
	if err != nil || len(frames) != 4 || !frames[0].Has(FlagEndStream) || frames[3].Flags != FlagEndHeaders {
		t.Fatalf("%v, %v", frames, err)
	}
	var got string
	for _, f := range frames {
		got += f.payload
	}
	if got != string(block) {
		t.Error("other bytes")
	}
}

func FuzzConnectHeaders(f *testing.F) {
	f.Add(AppendConnect(nil, Target{Authority: netip.MustParseAddrPort("10.0.0.2:80")}), []byte{0x88})
	f.Add(AppendConnect(nil, Target{Authority: netip.MustParseAddrPort("[fd00::2]:80"), Header: Header{Baggage: "a=b"}}), []byte{0x3f, 0xe1, 0x1f})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		d := NewDecoder(ServerHeaderLimit)
		for _, block := range [][]byte{first, second} {
			got, err := d.Decode(block)
			var bad *Violation
			if err != nil {
				if !errors.As(err, &bad) {
					t.Fatalf("error %v", err)
				}
				return
			}
			if got.Answer(); got.MalformedRequest() != "" {
				continue
			}
			local, _ := parseAuthority(got.authority)
			target, status := got.Request(local.Addr())
			if (status == 0) != (got.method == "CONNECT" && local.IsValid()) {
				t.Fatalf("%+v: status %d", got, status)
			}
			if status != 0 || strings.Contains(got.authority, "%") {
				continue
			}
			again, err := NewDecoder(ServerHeaderLimit).Decode(AppendConnect(nil, target))
			if err != nil {
				t.Fatal(err)
			}
			if same, _ := again.Request(local.Addr()); same != target {
				t.Fatalf("%+v became %+v", target, same)
			}
		}
	})
}

// A block that plain decodes says the same to package hpack, whatever state that is in.
func FuzzPlainBlocks(f *testing.F) {
	f.Add(AppendConnect(nil, Target{Authority: netip.MustParseAddrPort("10.0.0.1:80"), Header: Header{Baggage: strings.Repeat("b", 300), Forwarded: "f"}}))
	f.Add(AppendStatus(nil, 200))
	f.Add(AppendStatus(nil, 503))
	f.Add(bytes.Repeat(AppendStatus(nil, 200), HeaderFieldLimit+1))
	f.Add([]byte{0x10, 1, 'X', 1, 'y', 0x88, 0x11, 3, 'a', ':', '1'})
	d := NewDecoder(ServerHeaderLimit)
	f.Fuzz(func(t *testing.T, block []byte) {
		if d.begin(); !d.plain(block) {
			return
		}
		got := d.out
		if want, err := NewDecoder(ServerHeaderLimit).unfold(block); err != nil || got != want {
			t.Errorf("%x: %+v, want %+v, %v", block, got, want, err)
		}
	})
}

// What x/net's Framer calls malformed is so for us, whichever of the two roles we
// have. We are stricter: it knows no CONNECT.
func FuzzMalformed(f *testing.F) {
	f.Add(AppendConnect(nil, Target{Authority: netip.MustParseAddrPort("10.0.0.1:80")}))
	f.Add(AppendStatus(AppendStatus(nil, 200), 200))
	f.Add(appendField(AppendStatus(nil, 200), indexMethod, "", "CONNECT"))
	f.Add(appendField(nil, 0, "x", "a\r\nb"))
	f.Add(appendField(nil, 0, "X", ""))
	f.Fuzz(func(t *testing.T, block []byte) {
		ours, err := NewDecoder(ClientHeaderLimit).unfold(block)
		if err != nil {
			return
		}
		fr := http2.NewFramer(nil, bytes.NewReader(AppendBlock(nil, 1, 0, block, DefaultFrameLimit)))
		fr.ReadMetaHeaders = hpack.NewDecoder(headerTableSize, nil)
		_, theirs := fr.ReadFrame()
		var bad http2.StreamError
		_, problem := ours.Answer()
		if errors.As(theirs, &bad) && (problem == "" || ours.MalformedRequest() == "") {
			t.Errorf("%+v: the oracle says %v", ours, theirs)
		}
	})
}

func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"10.0.0.1:80", "[fd00::1]:80", "[::ffff:10.0.0.1]:80", "[fe80::1%eth0]:80", "10.0.0.1", "host:80", "10.0.0.1:0", "10.0.0.1:65536", ":80", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseAuthority(s)
		if err != nil {
			return
		}
		host, _, splitErr := net.SplitHostPort(s)
		if splitErr != nil {
			t.Fatalf("%q is %v, SplitHostPort: %v", s, got, splitErr)
		}
		addr, addrErr := netip.ParseAddr(host)
		if addrErr != nil || addr.Unmap() != got.Addr() || got.Port() == 0 || addr.Zone() != "" {
			t.Fatalf("%q is %v, host %v, %v", s, got, addr, addrErr)
		}
		if addr.Is6() != strings.HasPrefix(s, "[") {
			t.Fatalf("%q: brackets", s)
		}
	})
}

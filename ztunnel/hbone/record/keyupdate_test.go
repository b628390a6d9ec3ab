// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/culvert-mesh/culvert/rate"
)

// TestKeysAreUpdatedBeforeTheirLimit sends many keys' worth both ways, so that
// each side updates its own and answers requests, in the midst of data.
func TestKeysAreUpdatedBeforeTheirLimit(t *testing.T) {
	client, server := pair(t)
	for _, c := range []*Conn{client, server} {
		c.keyLimit = 200
		c.updateRate = rate.Limit{Burst: 1 << 20}
	}
	before := [2][48]byte{client.out.secret, server.out.secret}
	exchange(t, flushing{client}, flushing{server}, 16<<20)
	if client.out.secret == before[0] || server.out.secret == before[1] {
		t.Error("a key was not updated")
	}
	for _, c := range []*Conn{client, server} {
		if c.out.seq > c.keyLimit || c.in.seq > c.keyLimit {
			t.Errorf("keys were used for %d and %d records, limit %d", c.out.seq, c.in.seq, c.keyLimit)
		}
	}
}

// flushing keeps the key after the last record, for a look at it.
type flushing struct{ *Conn }

func (c flushing) CloseWrite() error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	rec := c.sealAlert(alertLevelWarning, alertCloseNotify)
	return c.write(rec[:])
}

// TestCryptoTLSIsAskedToUpdateItsKey lets a peer that never updates its key by
// itself send more than a key's worth.
func TestCryptoTLSIsAskedToUpdateItsKey(t *testing.T) {
	for _, client := range []bool{true, false} {
		ours, peer := mixed(t, client, config())
		ours.keyLimit = 100
		before := ours.in.secret
		updates := 0
		for range 400 {
			if _, err := peer.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(ours, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
			if ours.in.secret != before {
				before = ours.in.secret
				updates++
			}
			if _, err := ours.Write([]byte("pong")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(peer, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
		}
		if updates < 3 {
			t.Errorf("client=%v: %d updates of the peer's key in 400 records, want 3", client, updates)
		}
	}
}

func TestAPeerThatUsesItsKeyForTooLongIsRefused(t *testing.T) {
	c, f := forge(t, true)
	c.keyLimit = 50
	var want []byte
	for range 2*c.keyLimit + 1 {
		f.send(f.data("."))
	}
	want = bytes.Repeat([]byte("."), int(2*c.keyLimit))
	expectEnd(t, c, string(want), alertUnexpectedMessage, false)
}

// TestARequestedKeyUpdateGoesAheadOfTheNextData also shows that reading alone
// sends nothing, and that several requests are answered by one update.
func TestARequestedKeyUpdateGoesAheadOfTheNextData(t *testing.T) {
	c, f := forge(t, true)
	f.send(f.keyUpdate(1), f.keyUpdate(0), f.keyUpdate(1), f.data("x"))
	before := c.out.secret
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if c.out.secret != before || c.out.seq != 0 {
		t.Error("reading wrote")
	}
	if _, err := c.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	once := c.out.secret
	if once == before || c.out.seq != 1 {
		t.Error("no KeyUpdate ahead of the data")
	}
	if _, err := c.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	if c.out.secret != once {
		t.Error("another KeyUpdate without another request")
	}
	got := make([]byte, 10)
	if _, err := io.ReadFull(f.in, got); err != nil || string(got) != "answermore" {
		t.Errorf("peer got %q, %v", got, err)
	}
	if f.in.owed.Load() {
		t.Error("the answer asks for an answer")
	}
}

func TestThirtyTwoRecordsWithoutDataAreBorne(t *testing.T) {
	c, f := forge(t, true)
	for range 3 {
		for range uselessLimit {
			f.send(f.data(""))
		}
		f.send(f.data("x"))
	}
	if _, err := io.ReadFull(c, make([]byte, 3)); err != nil {
		t.Error(err)
	}
}

// TestKeysAreThoseOfRFC8448 derives the keys of its simple 1-RTT handshake.
func TestKeysAreThoseOfRFC8448(t *testing.T) {
	for _, tc := range []struct{ secret, iv, first string }{
		{ // client's application data of §3
			"9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
			"5b78923dee08579033e523d9",
			"1703030043 a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4",
		},
		{ // server's, whose record 0 is a ticket: its iv only
			"a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
			"cf782b88dd83549aadf1e984",
			"",
		},
	} {
		secret, _ := hex.DecodeString(tc.secret)
		var h half
		if err := h.begin(suites[tls.TLS_AES_128_GCM_SHA256], secret); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(h.iv[:]); got != tc.iv {
			t.Errorf("iv %s, want %s", got, tc.iv)
		}
		if tc.first == "" {
			continue
		}
		content := make([]byte, 50)
		for i := range content {
			content[i] = byte(i)
		}
		rec := append(make([]byte, headerSize), content...)
		rec = append(rec, make([]byte, tailSize)...)
		h.seal(rec, typeApplicationData)
		want, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(tc.first), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(rec, want) {
			t.Errorf("record\n%x, want\n%x", rec, want)
		}
	}
}

func TestAForgottenHalfHoldsNoSecret(t *testing.T) {
	client, server := pair(t)
	client.Close()
	server.Close()
	for _, h := range []*half{&client.in, &client.out, &server.in, &server.out} {
		if h.secret != [48]byte{} || h.iv != [12]byte{} || h.nonce != [12]byte{} || h.aead != nil {
			t.Error("Close leaves a secret")
		}
	}
	if _, err := client.Write([]byte("x")); err == nil {
		t.Error("Write after Close")
	}
	if _, err := client.Receive(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Receive after Close: %v", err)
	}
}

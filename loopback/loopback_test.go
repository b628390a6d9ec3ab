// SPDX-License-Identifier: Apache-2.0

package loopback

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestOnlyLoopbackAddressesAreListenedOn(t *testing.T) {
	for _, address := range []string{":0", "0.0.0.0:0", "10.0.0.1:0", "localhost:0", "127.0.0.1", "[::]:0", ""} {
		if ln, err := Listen(address); err == nil {
			ln.Close()
			t.Errorf("%q is listened on", address)
		}
	}
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

func TestOnlyThisMachinesNamesAreAnswered(t *testing.T) {
	h := Only(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") }))
	for host, want := range map[string]int{
		"localhost": 200, "localhost:15000": 200, "127.0.0.1:15000": 200, "127.1.2.3": 200, "[::1]:15000": 200, "[::1]": 200,
		"evil.example": 421, "evil.example:15000": 421, "10.0.0.1:15000": 421, "localhost.evil.example": 421, "": 421,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("host %q: %d, want %d", host, w.Code, want)
		}
	}
}

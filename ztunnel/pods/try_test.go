// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
)

func TestWhatIsTriedForAPod(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	w.add(w.pod("plain", "10.1.0.2", false), enroll.Ignore)
	client := netip.MustParseAddr("10.1.0.9")
	app := netip.MustParseAddrPort("10.1.0.1:8080")

	proof, err := w.pods.Try(t.Context(), Question{Pod: "web", App: app, Client: client})
	if err != nil || proof.Kernel == nil || !proof.Kernel.OK || proof.Tunnel != nil {
		t.Errorf("%+v, %v: %+v", proof, err, proof.Kernel)
	}
	if a := proof.App; a == nil || a.OK || !a.Refused || a.Word != "dial" || a.Error == "" {
		t.Errorf("nobody listens there: %+v", a)
	}

	// Nobody issues certificates in this world: the pod cannot show who it is.
	peer := hbone.Key{Dst: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/db"), Addr: netip.MustParseAddrPort("10.1.0.2:15008")}
	if proof, err = w.pods.Try(t.Context(), Question{Pod: "web", Peer: peer}); err != nil || proof.Tunnel == nil || proof.Tunnel.OK || proof.Tunnel.Shown == nil || *proof.Tunnel.Shown || proof.App != nil {
		t.Errorf("%+v, %v", proof.Tunnel, err)
	}

	for _, tc := range []struct {
		q    Question
		want string
	}{
		{Question{Pod: "plain"}, "pod: "},
		{Question{Pod: "none"}, "pod: "},
		{Question{Pod: "web", App: netip.MustParseAddrPort("10.1.0.2:80"), Client: client}, "app: 10.1.0.2 is no address of pod "},
		{Question{Pod: "web", App: netip.MustParseAddrPort("127.0.0.1:80"), Client: client}, "app: 127.0.0.1 is no address of pod "},
		{Question{Pod: "web", App: netip.MustParseAddrPort("10.1.0.1:15008"), Client: client}, "app: port 15008 is no app's"},
		{Question{Pod: "web", App: app, Client: netip.IPv6Loopback()}, "client: "},
		{Question{Pod: "web", App: app, Client: netip.MustParseAddr("127.0.0.1")}, "client: "},
	} {
		if _, err := w.pods.Try(t.Context(), tc.q); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %s", tc.q, err, tc.want)
		}
	}

	w.pods.trying.Store(mayTry)
	if _, err := w.pods.Try(t.Context(), Question{Pod: "web"}); err == nil || !strings.Contains(err.Error(), "ask again") {
		t.Errorf("beyond what is tried at a time: %v", err)
	}
	w.pods.trying.Store(0)
}

// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A004-17: no name of another namespace, of the world outside, or of an address.
func TestOnlyNamesOfItsOwnNamespaceAreAServiceAccounts(t *testing.T) {
	sa := ServiceAccount{"shop", "web"}
	long := strings.Repeat("a", 63)
	for _, own := range []string{"web-1.shop.pod", "web.v1.shop.pod", "web.shop.svc", "web.shop.svc.cluster.local"} {
		if !sa.OwnDNSName(own) {
			t.Errorf("%s is not its own", own)
		}
	}
	for _, foreign := range []string{
		"", "web", "example.com", "shop.pod", ".shop.pod", "web.shop", "web.bank.svc", "web-1.bank.pod", "web.shop.svc.example.com", "a.web.shop.svc", "web.shop.pod.cluster.local",
		"*.shop.svc", "*.shop.pod", "Web.shop.svc", "web.shop.svc.", "10-0-0-1.shop.pod", "fd00--1.shop.pod", long + "a.shop.svc",
		strings.Repeat(long+".", 4) + "shop.pod", "web.shop.svc.cluster.local.cluster.local", "we b.shop.svc", "x.shop.svc\x00.shop.svc",
	} {
		if sa.OwnDNSName(foreign) {
			t.Errorf("%q is taken for its own", foreign)
		}
	}
	if PodDNSName("shop", "10-0-0-1") != "" || PodDNSName("shop", strings.Repeat(long+".", 4)+"x") != "" || ServiceDNSNames("shop", long+"a") != nil {
		t.Error("a name was made that nobody may have")
	}
	if got := append(ServiceDNSNames("shop", "web"), PodDNSName("shop", "web-1")); !slices.Equal(got, []string{"web.shop.svc", "web.shop.svc.cluster.local", "web-1.shop.pod"}) {
		t.Errorf("%v", got)
	}
}

func TestNamesOfACertificateAreBounded(t *testing.T) {
	var names, long []string
	for n := range 40 {
		names, long = append(names, fmt.Sprintf("web-%d.shop.pod", n)), append(long, fmt.Sprintf("web-%d%s.shop.pod", n, strings.Repeat(".a", 100)))
	}
	if got := FitDNSNames(names); !slices.Equal(got, names[:MaxDNSNames]) {
		t.Errorf("%d names", len(got))
	}
	if got := FitDNSNames(long); len(got) == 0 || len(strings.Join(got, "")) > maxDNSBytes || len(strings.Join(long[:len(got)+1], "")) <= maxDNSBytes {
		t.Errorf("%d long names", len(got))
	}
}

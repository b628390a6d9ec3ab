// SPDX-License-Identifier: Apache-2.0

// Package loopback serves what any process of a machine may read, and nobody else:
// the configuration dumps of ztunnel and of the CA.
package loopback

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Listen opens a port of a loopback address. A name is refused: it could lead
// anywhere by the time it is resolved.
func Listen(address string) (net.Listener, error) {
	if a, err := netip.ParseAddrPort(address); err != nil || !a.Addr().IsLoopback() {
		return nil, fmt.Errorf("%q is not a loopback address and port", address)
	}
	return net.Listen("tcp", address)
}

// Only refuses requests for other host names than this machine's own: a web page
// whose name was rebound to 127.0.0.1 must not read what h shows.
func Only(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if host != "localhost" && (err != nil || !addr.IsLoopback()) {
			http.Error(w, "this address answers for localhost only", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// SPDX-License-Identifier: Apache-2.0

package program

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

var (
	label     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	subdomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	cluster   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)
	dnsName   = regexp.MustCompile(`^(?i)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// Label takes a name as Kubernetes' namespaces have it.
func Label(s string) (string, error) {
	if label.MatchString(s) {
		return s, nil
	}
	return "", meant(s, label, "want at most 63 lower-case letters, digits and dashes")
}

// ClusterName takes what may stand in a header and in a label of metrics.
func ClusterName(s string) (string, error) {
	if !cluster.MatchString(s) {
		return "", errors.New("want at most 253 letters, digits, and between them dashes, dots and underscores")
	}
	return s, nil
}

// Subdomain takes a name as Kubernetes' nodes and pods have it.
func Subdomain(s string) (string, error) {
	if len(s) <= 253 && subdomain.MatchString(s) {
		return s, nil
	}
	return "", meant(s, subdomain, "want at most 253 lower-case letters, digits, dashes and dots between them")
}

// meant adds to want what s would be as a name, if that is plain.
func meant(s string, valid *regexp.Regexp, want string) error {
	guess := strings.TrimSuffix(strings.ReplaceAll(strings.ToLower(s), "_", "-"), ".")
	if len(guess) <= 253 && valid.MatchString(guess) {
		return fmt.Errorf("%s: did you mean %s?", want, guess)
	}
	return errors.New(want)
}

// Namespaced takes namespace/name.
func Namespaced(s string) (string, error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || strings.Contains(name, "/") {
		return "", errors.New("want namespace/name")
	}
	if _, err := Label(namespace); err != nil {
		return "", fmt.Errorf("namespace %q: %w", namespace, err)
	}
	if _, err := Subdomain(name); err != nil {
		return "", fmt.Errorf("name %q: %w", name, err)
	}
	return s, nil
}

// DNSName takes a name that a certificate may bear.
func DNSName(s string) (string, error) {
	if _, err := netip.ParseAddr(s); err == nil {
		return "", fmt.Errorf("%s is an address: want a DNS name", s)
	}
	if !isDNSName(s) {
		return "", fmt.Errorf("%q is no DNS name, as culvert-identity.culvert-system.svc", s)
	}
	return s, nil
}

func isDNSName(s string) bool { return len(s) <= 253 && dnsName.MatchString(s) }

// ServerName takes a DNS name or an address that a certificate may bear.
func ServerName(s string) (string, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return s, nil
	}
	return DNSName(s)
}

// Listen takes an address to listen on; without a host it is all of the node's.
func Listen(s string) (string, error) {
	if err := portAlone(s, ""); err != nil {
		return "", err
	}
	_, err := hostOf(s, ":15020 or [fd77::1]:15020")
	return s, err
}

// Listener is a flag whose value is an address to listen on.
type Listener struct{ Flag, Address string }

// Apart refuses two listeners that cannot both have their address.
func Apart(all ...Listener) error {
	var problems []error
	for i, one := range all {
		for _, other := range all[i+1:] {
			if collide(one.Address, other.Address) {
				problems = append(problems, fmt.Errorf("-%s %s and -%s %s cannot both listen there: choose another port for one of them", one.Flag, one.Address, other.Flag, other.Address))
			}
		}
	}
	return errors.Join(problems...)
}

// collide is true for one port of one host; all hosts hold each. What is no
// address has been refused by its flag.
func collide(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB {
		return false
	}
	hostA, hostB = canonical(hostA), canonical(hostB)
	return hostA == hostB || hostA == "" || hostB == ""
}

// canonical is empty for all hosts: net.Listen takes 0.0.0.0, :: and no host for
// both families.
func canonical(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" {
		return "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return host
	case addr.IsUnspecified():
		return ""
	}
	return addr.String()
}

// Loopback takes an address that only this machine reaches, and no name: one
// could lead anywhere by the time it is resolved.
func Loopback(s string) (string, error) {
	if err := portAlone(s, "127.0.0.1"); err != nil {
		return "", err
	}
	host, err := hostOf(s, "127.0.0.1:15000 or [::1]:15000")
	if err != nil {
		return "", err
	}
	if addr, err := netip.ParseAddr(host); err != nil || !addr.IsLoopback() {
		return "", errors.New("want a loopback address, as 127.0.0.1:15000: what it shows is for this node only")
	}
	return s, nil
}

// Dial takes an address to connect to.
func Dial(s string) (string, error) {
	host, err := hostOf(s, "ca.example:15012 or [fd77::1]:15012")
	if err != nil {
		return "", err
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		return "", errors.New("it names no host to connect to")
	}
	return s, nil
}

// portAlone refuses a port without a host, and says how host is written with it.
func portAlone(s, host string) error {
	if _, err := Port(s); err != nil {
		return nil
	}
	return fmt.Errorf("want host:port: did you mean %s:%s?", host, s)
}

// hostOf takes host:port apart, as in example.
func hostOf(s, example string) (string, error) {
	if u, err := url.Parse(s); strings.Contains(s, "://") && err == nil {
		if _, err := hostOf(u.Host, example); err != nil {
			return "", fmt.Errorf("want host:port and no scheme, as %s", example)
		}
		return "", fmt.Errorf("want host:port and no scheme: did you mean %s?", u.Host)
	}
	if addr, err := netip.ParseAddr(s); err == nil && addr.Is6() {
		return "", fmt.Errorf("it has no port: an IPv6 address with one is [%v]:PORT", addr)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("want host:port, as %s", example)
	}
	if _, err := Port(port); err != nil {
		return "", err
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err == nil && addr.Is4In6():
		return "", fmt.Errorf("it is IPv4 written as IPv6: did you mean %v:%s?", addr.Unmap(), port)
	case err != nil && host != "" && !isDNSName(strings.TrimSuffix(host, ".")):
		return "", fmt.Errorf("%q is neither an address nor a DNS name", host)
	}
	return host, nil
}

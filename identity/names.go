// SPDX-License-Identifier: Apache-2.0

package identity

import "strings"

// DNS names in one certificate.
const (
	MaxDNSNames   = 16
	maxDNSBytes   = 2048 // of all: a node takes a chain of 32 KiB
	maxDNSName    = 253  // RFC 1035, 2.3.4
	serviceSuffix = ".svc"
	clusterDomain = ".cluster.local"

	PodSuffix = ".pod" // ends the names of pods
)

// PodDNSName is the DNS name by which a certificate may name a pod, or empty if it may
// not. A pod's bare name would be anybody's: example.com is one.
//
// The cluster's DNS gives names of digits and hyphens below ".pod" to addresses,
// whosever they are. A pod cannot have such a name here.
func PodDNSName(namespace, pod string) string {
	if strings.Trim(pod, "0123456789abcdef-") == "" {
		return ""
	}
	return properName(pod + "." + namespace + PodSuffix)
}

// ServiceDNSNames are the DNS names by which a certificate may name a Service, as the
// cluster's DNS has them.
func ServiceDNSNames(namespace, service string) []string {
	short := properName(service + "." + namespace + serviceSuffix)
	long := properName(short + clusterDomain)
	if short == "" || long == "" {
		return nil
	}
	return []string{short, long}
}

// properName is a DNS name, or empty if it is none: a client's wildcards and dots at the
// end are no names.
func properName(name string) string {
	if len(name) > maxDNSName {
		return ""
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) > maxLabel || !isLabel(label) {
			return ""
		}
	}
	return name
}

// FitDNSNames returns the first of the names, as many as a certificate may have.
func FitDNSNames(names []string) []string {
	size := 0
	for i, name := range names {
		if size += len(name); i == MaxDNSNames || size > maxDNSBytes {
			return names[:i]
		}
	}
	return names
}

// OwnDNSName reports whether a DNS name is one that a pod or a Service of the
// ServiceAccount's namespace has. No other may stand in its certificates.
func (sa ServiceAccount) OwnDNSName(name string) bool {
	if own, found := strings.CutSuffix(name, "."+sa.Namespace+PodSuffix); found {
		return PodDNSName(sa.Namespace, own) == name
	}
	own, found := strings.CutSuffix(strings.TrimSuffix(name, clusterDomain), "."+sa.Namespace+serviceSuffix)
	return found && !strings.Contains(own, ".") && properName(name) == name
}

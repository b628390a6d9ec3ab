// SPDX-License-Identifier: Apache-2.0

package source

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
)

// CertificateTTL is the annotation by which a ServiceAccount, a Namespace or, for the
// whole mesh, the root namespace says how long certificates last, as 30m.
const CertificateTTL = "culvert.dev/certificate-ttl"

// AccountOf is what a ServiceAccount says.
func AccountOf(o *corev1.ServiceAccount) Account {
	return Account{UID: string(o.UID), TTL: o.Annotations[CertificateTTL]}
}

// accounts are those of a Builder. A snapshot shares the maps until they change.
type accounts struct {
	byName map[Name]Account
	ttl    map[string]string
	shared bool
}

// own has the maps be there, to be written to.
func (a *accounts) own() {
	if a.shared {
		a.byName, a.ttl, a.shared = maps.Clone(a.byName), maps.Clone(a.ttl), false
	}
	if a.byName == nil {
		a.byName = map[Name]Account{}
	}
	if a.ttl == nil {
		a.ttl = map[string]string{}
	}
}

func (a *accounts) set(name Name, o *corev1.ServiceAccount) {
	next := AccountOf(o)
	if old, known := a.byName[name]; known && old == next {
		return
	}
	a.own()
	a.byName[name] = next
}

func (a *accounts) delete(name Name) {
	if _, known := a.byName[name]; !known {
		return
	}
	a.own()
	delete(a.byName, name)
}

// setNamespace takes the annotation of a Namespace, empty for none.
func (a *accounts) setNamespace(name, ttl string) {
	if a.ttl[name] == ttl {
		return
	}
	a.own()
	if a.ttl[name] = ttl; ttl == "" {
		delete(a.ttl, name)
	}
}

func (a *accounts) snapshot() Accounts {
	a.shared = true
	return Accounts{ByName: a.byName, TTL: a.ttl}
}

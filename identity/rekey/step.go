// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// Wanted returns what is to be stored so that the CA is as the plan's state wants it; nil if
// it is so. What is nil in it is to be removed.
func Wanted(p Plan, files ca.Files) ca.Files {
	next := ca.Files{}
	switch p.State {
	case Distribute:
		wantRoots(next, files, p.Next.Roots(), nil)
	case Activate, Drain:
		wantRoots(next, files, p.Next.Roots(), nil)
		wantIssuer(next, files, p.Next)
	case Drop:
		wantIssuer(next, files, p.Next)
		wantRoots(next, files, p.Next.Roots(), p.Former.Roots())
	case Withdraw:
		wantRoots(next, files, nil, p.Next.Roots())
	}
	if len(next) == 0 {
		return nil
	}
	return next
}

// wantRoots adds roots, and takes those out that have name and key of another. All others
// stay: they are somebody's.
func wantRoots(next, files ca.Files, add, drop []*x509.Certificate) {
	roots := files.Roots()
	var missing []*x509.Certificate
	for _, root := range add {
		if len(authorities(roots, []*x509.Certificate{root})) == 0 {
			missing = append(missing, root)
		}
	}
	gone := authorities(roots, drop)
	if len(missing)+len(gone) > 0 {
		next[ca.RootFile] = ca.EncodeCerts(append(without(roots, gone), missing...))
	}
}

// wantIssuer has the kit sign. An issuer that was renewed under the kit's root is as good.
func wantIssuer(next, files ca.Files, kit Kit) {
	if !kit.signs(files) {
		next[ca.IssuerFile], next[ca.IssuerKeyFile] = []byte(kit.Issuer), []byte(kit.IssuerKey)
	}
	switch key, there := files[ca.RootKeyFile]; {
	case kit.RootKey == "" && there:
		next[ca.RootKeyFile] = nil
	case kit.RootKey != "" && !bytes.Equal(key, []byte(kit.RootKey)):
		next[ca.RootKeyFile] = []byte(kit.RootKey)
	}
}

// Next decides what follows from a plan whose files are as Wanted, and what it waits for. It
// returns the same plan if it waits; with another, they are those that are not waited for.
// accepts says why the CA would refuse files, or nil.
func Next(p Plan, files ca.Files, v View, accepts func(ca.Files) error) (Plan, []Wait) {
	if p.Paused {
		return p, []Wait{{forOperator, "", "it is paused: culvert ca rotate-root --resume"}}
	}
	set, skip := setOf(files), p.skips(v.Now)
	switch p.State {
	case Prepare:
		if err := accepts(p.Next.files(files.Roots())); err != nil {
			return p, []Wait{refused(err)}
		}
		return p.to(Distribute, v.Now), nil

	case Distribute: // gate 1
		next, waits := p.everywhere(v, v.replicas(p.Step, gives(set)))
		waits = slices.Concat(waits, v.acked(set, next.Everywhere), v.processes(next.Everywhere))
		if next.Everywhere.IsZero() && !skip || len(waits) > 0 && !skip {
			return next, waits
		}
		// Its signer may have gone since: then nobody could sign.
		if err := accepts(p.Next.files(files.Roots())); err != nil {
			return next, []Wait{refused(err)}
		}
		former, err := KitOf(files) // with an issuer that was renewed meanwhile
		if err != nil {
			return p, []Wait{{forOperator, "", fmt.Sprintf("the CA in force cannot be read: %v", err)}}
		}
		next.Former = former
		return next.to(Activate, v.Now), waits

	case Activate:
		waits := v.replicas(p.Step, signsBy(issuerOf(files)))
		if len(waits) > 0 && !skip {
			return p, waits
		}
		return p.to(Drain, v.Now), waits

	case Drain: // gate 2
		// The way back ends here: the next issuer must be one that signs.
		skip = skip && !v.nobodySigns(issuerOf(files))
		waits := v.replicas(p.Step, first(signsBy(issuerOf(files)), gives(set), signs))
		if len(waits) == 0 || skip {
			waits = slices.Concat(waits, v.rests(p.Former, set, v.ended(p.Since)), v.processes(p.Since))
		}
		next, moving := p.moving(v, set)
		switch {
		case len(waits) > 0 && !skip:
			return next, waits
		case skip && len(moving) > 0:
			return next, moving
		}
		return p.to(Drop, v.Now), waits

	case Drop, Withdraw:
		next, waits := p.everywhere(v, v.replicas(p.Step, gives(set)))
		waits = slices.Concat(waits, v.acked(set, next.Everywhere))
		if next.Everywhere.IsZero() || len(waits) > 0 {
			return next, waits
		}
		return next.end(v.Now), nil
	}
	return p, nil
}

// moving are those that answer, and in a moment have nothing that rests on the former root: a
// root whose key is in other hands is not dropped before, whoever is cut off. The plan notes
// since when they have renewed; a node may count tunnels to one that is cut off for ever.
func (p Plan) moving(v View, set string) (Plan, []Wait) {
	if !p.Compromised || p.Back {
		return p, nil
	}
	next, waits := p.everywhere(v, v.renewing(p.Step, p.Former, set))
	switch {
	case v.Now.Sub(p.Since) >= time.Duration(p.SkipAfter)+moveWithin:
		return next, nil
	case len(waits) > 0 || v.Now.Sub(next.Everywhere) >= tunnelsMove:
		return next, waits
	}
	return next, v.carried(p.Former)
}

// refused is what there is to wait for while the CA would not take the next one.
func refused(err error) Wait {
	if errors.Is(err, signing.ErrAway) {
		return Wait{forSigner, "", fmt.Sprintf("the signer of the next issuer's key is away: %v", err)}
	}
	return Wait{forOperator, "", fmt.Sprintf("the next CA is refused; abort: %v", err)}
}

// everywhere notes since when all replicas do what the state wants, and for whom is waited.
func (p Plan) everywhere(v View, waits []Wait) (Plan, []Wait) {
	switch {
	case len(waits) > 0:
		p.Everywhere = time.Time{}
	case p.Everywhere.IsZero():
		p.Everywhere = v.Now.UTC()
	}
	return p, waits
}

// skips reports whether the state has been waited in for long enough, for a root whose key
// may be in other hands. On the way back to it nothing is in a hurry.
func (p Plan) skips(now time.Time) bool {
	return p.Compromised && !p.Back && now.Sub(p.Since) >= time.Duration(p.SkipAfter)
}

func issuerOf(files ca.Files) string {
	issuer := ca.IssuerOf(files)
	if issuer == nil {
		return ""
	}
	return ca.Fingerprint(issuer)
}

// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/yaml"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/strictyaml"
)

// Profile says how a bundle endpoint proves itself.
type Profile string

// The profiles of the standard.
const (
	HTTPSWeb    Profile = "https_web"    // by a certificate for the name in its URL
	HTTPSSPIFFE Profile = "https_spiffe" // by its SPIFFE ID, under the bundle that is known
)

// Domain is another trust domain, and where its bundle is.
type Domain struct {
	TrustDomain spiffeid.TrustDomain
	URL         string
	Profile     Profile
	EndpointID  spiffeid.ID // of https_spiffe
	BundleFile  string      // of https_spiffe: the bundle to begin with, a JWKS or PEM
	RootsFile   string      // of https_web: PEM; empty: the system's roots, of which images have none
}

// entry is a Domain as it is written.
type entry struct {
	TrustDomain      string  `json:"trustDomain"`
	URL              string  `json:"url"`
	Profile          Profile `json:"profile"`
	EndpointSPIFFEID string  `json:"endpointSPIFFEID"`
	BundleFile       string  `json:"bundleFile"`
	RootsFile        string  `json:"rootsFile"`
}

// maxNumber is beyond all numbers that are times in seconds. A greater one, written by mistake,
// would leave no greater ones.
const maxNumber = 1 << 48

// List is what the file says.
type List struct {
	Number  uint64 // greater with each change; 0: it has none
	Domains []Domain
}

// Parse reads a YAML list of domains, or {number, domains}. It returns all that is wrong with
// it, and then what it could read, without a number.
func Parse(text []byte, own spiffeid.TrustDomain) (List, error) {
	number, entries, err := entriesOf(text)
	if err != nil {
		return List{}, err
	}
	if entries == nil { // an empty file may be half of one that is being written
		return List{}, errors.New("there is no list: want [] for no trust domain")
	}
	if len(entries) > identityv1.MaxFederated {
		return List{}, fmt.Errorf("there are %d trust domains, the limit is %d", len(entries), identityv1.MaxFederated)
	}
	all, err := domainsOf(entries, own)
	if err != nil {
		return List{Domains: all}, err
	}
	return List{number, all}, nil
}

// entriesOf reads either form of the file.
func entriesOf(text []byte) (number uint64, entries []entry, err error) {
	if raw, err := yaml.YAMLToJSON(text); err != nil || !bytes.HasPrefix(raw, []byte("{")) {
		if err := strictyaml.Unmarshal(text, &entries); err != nil {
			return 0, nil, fmt.Errorf("not a list of {trustDomain, url, profile}: %v", err)
		}
		return 0, entries, nil
	}
	var numbered struct {
		Number  uint64  `json:"number"`
		Domains []entry `json:"domains"`
	}
	if err := strictyaml.Unmarshal(text, &numbered); err != nil {
		return 0, nil, fmt.Errorf("neither a list of {trustDomain, url, profile}, nor {number, domains}: %v", err)
	}
	if numbered.Number == 0 || numbered.Number > maxNumber {
		return 0, nil, fmt.Errorf("number: %d is not within 1 and %d", numbered.Number, uint64(maxNumber))
	}
	return numbered.Number, numbered.Domains, nil
}

func domainsOf(entries []entry, own spiffeid.TrustDomain) ([]Domain, error) {
	var all []Domain
	var problems []error
	seen := map[spiffeid.TrustDomain]bool{}
	for i, e := range entries {
		d, err := e.domain(own)
		if err == nil && seen[d.TrustDomain] {
			err = fmt.Errorf("trustDomain: %s is there twice", d.TrustDomain)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("entry %d: %v", i, err))
			continue
		}
		seen[d.TrustDomain] = true
		all = append(all, d)
	}
	return all, errors.Join(problems...)
}

func (e entry) domain(own spiffeid.TrustDomain) (d Domain, err error) {
	d = Domain{URL: e.URL, Profile: e.Profile, BundleFile: e.BundleFile, RootsFile: e.RootsFile}
	if d.TrustDomain, err = spiffeid.TrustDomainFromString(e.TrustDomain); err != nil {
		return d, fmt.Errorf("trustDomain: %v", err)
	}
	if e.TrustDomain != d.TrustDomain.Name() && e.TrustDomain != d.TrustDomain.IDString() {
		return d, fmt.Errorf("trustDomain: %q is more than a trust domain: want %v", e.TrustDomain, d.TrustDomain)
	}
	if d.TrustDomain == own {
		return d, fmt.Errorf("trustDomain: %s is that of this mesh", own)
	}
	at, err := url.Parse(e.URL)
	if err != nil || at.Scheme != "https" || at.Host == "" || at.User != nil || at.Fragment != "" {
		return d, fmt.Errorf("url: %q is not https://HOST[:PORT][/PATH]", e.URL)
	}
	switch e.Profile {
	case HTTPSWeb:
		if e.EndpointSPIFFEID != "" || e.BundleFile != "" {
			return d, errors.New("endpointSPIFFEID and bundleFile are of the profile https_spiffe")
		}
		return d, nil
	case HTTPSSPIFFE:
		return e.spiffe(d)
	}
	return d, fmt.Errorf("profile: %q is neither https_web nor https_spiffe", e.Profile)
}

func (e entry) spiffe(d Domain) (_ Domain, err error) {
	if d.EndpointID, err = spiffeid.FromString(e.EndpointSPIFFEID); err != nil {
		return d, fmt.Errorf("endpointSPIFFEID: %v", err)
	}
	switch {
	case !d.EndpointID.MemberOf(d.TrustDomain):
		return d, fmt.Errorf("endpointSPIFFEID: %s is not of the trust domain %s, whose bundle it gives", d.EndpointID, d.TrustDomain)
	case e.BundleFile == "":
		return d, errors.New("bundleFile: the profile https_spiffe needs a bundle to begin with")
	case e.RootsFile != "":
		return d, errors.New("rootsFile is of the profile https_web")
	}
	return d, nil
}

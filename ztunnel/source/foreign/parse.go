// SPDX-License-Identifier: Apache-2.0

package foreign

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/strictyaml"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Bounds of a file. maxDomains is how many bundles of other trust domains a node takes.
const (
	maxFile    = 1 << 20 // bytes: no ConfigMap is larger
	maxDomains = 16
	maxCIDRs   = 64 // of a domain
)

// noPods hold addresses that are of the machine, of its link, of many or of nobody. The whole
// world overlaps them.
var noPods = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("::ffff:0:0/96"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// entry is a domain as it is written.
type entry struct {
	TrustDomain string   `json:"trustDomain"`
	CIDRs       []string `json:"cidrs"`
	Workloads   []struct {
		ID        string   `json:"id"`
		Addresses []string `json:"addresses"`
	} `json:"workloads"`
}

// Parse reads a YAML list of {trustDomain, cidrs, workloads}, for a mesh whose own trust
// domain is own. It returns all that is wrong with it, or what it says.
func Parse(text []byte, own spiffeid.TrustDomain) ([]workload.ForeignDomain, error) {
	var entries []entry
	if err := strictyaml.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("not a list of {trustDomain, cidrs, workloads}: %v", err)
	}
	if entries == nil { // an empty file may be half of one that is being written
		return nil, errors.New("there is no list: want [] for no trust domain")
	}
	if len(entries) > maxDomains {
		return nil, fmt.Errorf("there are %d trust domains, the limit is %d", len(entries), maxDomains)
	}
	p := &parser{own: own, domains: map[spiffeid.TrustDomain]bool{}, at: map[netip.Addr]spiffeid.ID{}}
	for i, e := range entries {
		p.where = fmt.Sprintf("[%d]", i)
		p.domain(e)
	}
	return p.all, errors.Join(p.problems...)
}

// parser is what was read so far.
type parser struct {
	own      spiffeid.TrustDomain
	all      []workload.ForeignDomain
	domains  map[spiffeid.TrustDomain]bool
	at       map[netip.Addr]spiffeid.ID
	where    string // it reads
	problems []error
}

func (p *parser) fail(field, format string, args ...any) {
	p.problems = append(p.problems, fmt.Errorf("%s.%s: %s", p.where, field, fmt.Sprintf(format, args...)))
}

func (p *parser) domain(e entry) {
	td, err := spiffeid.TrustDomainFromString(e.TrustDomain)
	switch {
	case err != nil:
		p.fail("trustDomain", "%v", err)
		return
	case td.Name() != e.TrustDomain:
		p.fail("trustDomain", "%q is more than a trust domain: want %v", e.TrustDomain, td)
		return
	case td == p.own:
		p.fail("trustDomain", "%v is that of this mesh, whose workloads no list names", td)
		return
	case p.domains[td]:
		p.fail("trustDomain", "%v is there twice", td)
		return
	}
	p.domains[td] = true
	d := workload.ForeignDomain{TrustDomain: td, Workloads: []workload.ForeignWorkload{}}
	if len(e.CIDRs) == 0 || len(e.CIDRs) > maxCIDRs {
		p.fail("cidrs", "%d of them: want 1 to %d, which hold the addresses of its pods", len(e.CIDRs), maxCIDRs)
	}
	for i, text := range e.CIDRs {
		if cidr, err := p.cidr(text); err != nil {
			p.fail(fmt.Sprintf("cidrs[%d]", i), "%v", err)
		} else {
			d.CIDRs = append(d.CIDRs, cidr)
		}
	}
	for i, w := range e.Workloads {
		field := fmt.Sprintf("workloads[%d]", i)
		id, err := idOf(w.ID, td)
		if err != nil {
			p.fail(field+".id", "%v", err)
			continue
		}
		if len(w.Addresses) == 0 {
			p.fail(field+".addresses", "%v has none", id)
		}
		d.Workloads = append(d.Workloads, workload.ForeignWorkload{ID: id, Addrs: p.addresses(field+".addresses", id, w.Addresses, d.CIDRs)})
	}
	p.all = append(p.all, d)
}

// cidr is one that no other domain has any address of.
func (p *parser) cidr(text string) (netip.Prefix, error) {
	cidr, err := netip.ParsePrefix(text)
	switch {
	case err != nil || cidr.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", text)
	case cidr != cidr.Masked():
		return netip.Prefix{}, fmt.Errorf("%v has bits behind its length: want %v", cidr, cidr.Masked())
	}
	for _, never := range noPods {
		if never.Overlaps(cidr) {
			return netip.Prefix{}, fmt.Errorf("%v overlaps %v, in which no pod of another mesh is", cidr, never)
		}
	}
	for _, d := range p.all {
		for _, other := range d.CIDRs {
			if other.Overlaps(cidr) {
				return netip.Prefix{}, fmt.Errorf("%v overlaps %v of %v", cidr, other, d.TrustDomain)
			}
		}
	}
	return cidr, nil
}

// idOf is a workload of the domain, by its whole SPIFFE ID.
func idOf(text string, td spiffeid.TrustDomain) (spiffeid.ID, error) {
	id, err := spiffeid.FromString(text)
	if err != nil {
		return id, fmt.Errorf("%q: %v", text, err)
	}
	if !id.MemberOf(td) {
		return id, fmt.Errorf("%v is not of the trust domain %v", id, td)
	}
	_, err = identity.Parse(id)
	return id, err
}

// addresses are in the domain's CIDRs, and no two workloads have the same one.
func (p *parser) addresses(field string, id spiffeid.ID, texts []string, cidrs []netip.Prefix) (addrs []netip.Addr) {
	for i, text := range texts {
		field := fmt.Sprintf("%s[%d]", field, i)
		addr, err := netip.ParseAddr(text)
		other, taken := p.at[addr]
		switch {
		case err != nil || addr.Zone() != "" || addr.Is4In6():
			p.fail(field, "%q is not an IP address", text)
		case !holds(cidrs, addr):
			p.fail(field, "%v is in none of the domain's cidrs", addr)
		case taken:
			p.fail(field, "%v is %v's already", addr, other)
		default:
			p.at[addr] = id
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func holds(cidrs []netip.Prefix, addr netip.Addr) bool {
	for _, cidr := range cidrs {
		if cidr.Contains(addr) {
			return true
		}
	}
	return false
}

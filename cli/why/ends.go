// SPDX-License-Identifier: Apache-2.0

package why

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// source is where a connection comes from.
type source struct {
	pod  *workload.Workload // nil: an address that is no pod's
	addr netip.Addr         // of a source that is no pod
	text string
	view *fleet.Node // the pod's own node if it answered, else another that knows it
	own  bool        // view is the pod's own
}

// destination is what it asks for.
type destination struct {
	pod     *workload.Workload // asked for by name or address; nil: none
	service *workload.Service  // likewise
	addr    netip.AddrPort     // what the app connects to
	from    netip.Addr         // the source's address of that family; zero: it has none
	text    string
}

// Unheard says that nobody who answered knows what was named.
type Unheard struct {
	text, like string
}

func (e *Unheard) Error() string { return e.text }

// Hint names what there is.
func (e *Unheard) Hint() string { return e.like }

// answered yields the nodes that did.
func (w *World) answered(yield func(*fleet.Node) bool) {
	for i := range w.Nodes {
		if w.Nodes[i].Problem == "" && !yield(&w.Nodes[i]) {
			return
		}
	}
}

// node is the one of that name, whether it answered or not; nil: nobody asked it.
func (w *World) node(name string) *fleet.Node {
	for i := range w.Nodes {
		if w.Nodes[i].Name == name {
			return &w.Nodes[i]
		}
	}
	return nil
}

// view is the node whose word counts for a pod of that node: itself, or another.
func (w *World) view(node string) (n *fleet.Node, own bool) {
	if n := w.node(node); n != nil && n.Problem == "" {
		return n, true
	}
	for n := range w.answered {
		return n, false
	}
	return nil, false
}

// pods are those that a node which answered knows, each as its own node has it if that
// is one of them.
func (w *World) pods(is func(*workload.Workload) bool) (found []workload.Workload) {
	for n := range w.answered {
		for i := range n.Dump.Workloads {
			p := &n.Dump.Workloads[i]
			if p.Terminated || !is(p) {
				continue
			}
			at := slices.IndexFunc(found, func(f workload.Workload) bool { return f.Namespace == p.Namespace && f.Name == p.Name })
			switch {
			case at < 0:
				found = append(found, *p)
			case p.Node == n.Name:
				found[at] = *p
			}
		}
	}
	return found
}

// named is the one pod of that name; nil: none is known.
func (w *World) named(text string) (*workload.Workload, error) {
	namespace, name, qualified := strings.Cut(text, "/")
	if !qualified {
		namespace, name = "", text
	}
	found := w.pods(func(p *workload.Workload) bool { return p.Name == name && (!qualified || p.Namespace == namespace) })
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return &found[0], nil
	}
	return nil, fmt.Errorf("pod %s is in %s and %s: say which, as %s", text, found[0].Namespace, found[1].Namespace, found[0])
}

// like names pods for whoever named none.
func (w *World) like(text string) string {
	name := text[strings.LastIndex(text, "/")+1:]
	var names []string
	for _, p := range w.pods(func(p *workload.Workload) bool { return p.Owner == name || strings.HasPrefix(p.Name, name) }) {
		names = append(names, p.String())
	}
	if slices.Sort(names); len(names) == 0 {
		return "name a pod or a Service as namespace/name, or give an address"
	}
	return "there is " + strings.Join(names[:min(len(names), 3)], ", ")
}

// at is the pod that has an address to itself; nil: none is known.
func (w *World) at(addr netip.Addr) *workload.Workload {
	found := w.pods(func(p *workload.Workload) bool { return !p.HostNetwork && slices.Contains(p.Addrs, addr) })
	if len(found) == 0 {
		return nil
	}
	return &found[0]
}

// source reads namespace/name of a pod, or an address.
func (w *World) source(text string) (s source, err error) {
	addr, notAddr := netip.ParseAddr(text)
	if notAddr == nil {
		s.addr, s.text = addr.Unmap(), addr.Unmap().String()
		s.pod = w.at(s.addr)
	} else if s.pod, err = w.aPod(text); err != nil {
		return s, err
	} else if s.pod == nil {
		return s, &Unheard{fmt.Sprintf("no node that answered knows a pod %s", text), w.like(text)}
	}
	if s.pod == nil {
		s.view, _ = w.view("")
		return s, nil
	}
	s.text = s.pod.String()
	s.view, s.own = w.view(s.pod.Node)
	return s, nil
}

// destination reads a pod, a Service or an address, with or without a port.
func (w *World) destination(src source, text string) (d destination, err error) {
	host, port := cutPort(text)
	addr, notAddr := netip.ParseAddr(host)
	if notAddr == nil {
		addr = addr.Unmap()
		d.pod = w.at(addr)
		if d.service = serviceAt(src.view, addr); d.service != nil {
			d.pod = nil
		}
	} else if err = w.find(&d, src.view, host); err != nil {
		return d, err
	}
	number, err := d.port(port)
	if err != nil {
		return d, err
	}
	if notAddr != nil {
		if addr, err = d.choose(src, host); err != nil {
			return d, err
		}
	}
	d.addr, d.from = netip.AddrPortFrom(addr, number), src.to(addr)
	switch {
	case d.service != nil && !addr.IsValid():
		d.text = fmt.Sprintf("Service %s/%s port %d", d.service.Namespace, d.service.Name, number)
	case d.service != nil:
		d.text = fmt.Sprintf("Service %s/%s port %d (%v)", d.service.Namespace, d.service.Name, number, addr)
	case d.pod != nil:
		d.text = fmt.Sprintf("%s port %d (%v)", d.pod, number, addr)
	default:
		d.text = d.addr.String()
	}
	return d, nil
}

// find sets the pod or the Service that a text names.
func (w *World) find(d *destination, view *fleet.Node, text string) (err error) {
	kind, name := cutKind(text)
	if kind != kindService {
		if d.pod, err = w.named(name); err != nil {
			return err
		}
	}
	if kind != kindPod {
		if d.service, err = serviceNamed(view, name); err != nil {
			return err
		}
	}
	switch {
	case d.pod != nil && d.service != nil:
		return fmt.Errorf("%s is a pod and a Service: say which, as %s/%s or %s/%s/%s", text, kindPod, d.pod, kindService, d.service.Namespace, d.service.Name)
	case d.pod == nil && d.service == nil:
		return &Unheard{fmt.Sprintf("no node that answered knows a pod or a Service %s", text), w.like(text)}
	}
	return nil
}

// What may stand in front of a name, with a slash.
const (
	kindPod     = "pod"
	kindService = "svc"
)

// cutKind cuts the kind in front of a name; empty: there is none.
func cutKind(text string) (kind, name string) {
	kind, name, _ = strings.Cut(text, "/")
	switch kind {
	case kindPod, kindService:
		return kind, name
	case "service":
		return kindService, name
	}
	return "", text
}

// aPod is the one pod that a text names; nil: none is known.
func (w *World) aPod(text string) (*workload.Workload, error) {
	kind, name := cutKind(text)
	if kind == kindService {
		return nil, fmt.Errorf("%s: want a pod, as shop/web-1", text)
	}
	return w.named(name)
}

// cutPort cuts what stands behind the last colon, unless that is a part of an address.
func cutPort(text string) (host, port string) {
	if _, err := netip.ParseAddr(text); err == nil {
		return text, ""
	}
	i := strings.LastIndex(text, ":")
	if i < 0 {
		return text, ""
	}
	return strings.Trim(text[:i], "[]"), text[i+1:]
}

// port reads a number or a name. Without one it is the only port that there is.
func (d *destination) port(text string) (uint16, error) {
	if text == "" {
		return d.onlyPort()
	}
	if n, err := strconv.ParseUint(text, 10, 16); err == nil && n > 0 {
		return uint16(n), nil
	}
	if d.service != nil {
		for _, p := range d.service.Ports {
			if p.Name == text {
				return p.Port, nil
			}
		}
	}
	if d.pod != nil {
		for _, p := range d.pod.Ports {
			if p.Name == text {
				return p.Port, nil
			}
		}
	}
	return 0, fmt.Errorf("port %q: it is no number from 1 to 65535, and the destination has no TCP port of that name", text)
}

func (d *destination) onlyPort() (uint16, error) {
	var ports []uint16
	switch {
	case d.service != nil:
		for _, p := range d.service.Ports {
			ports = append(ports, p.Port)
		}
	case d.pod != nil:
		ports = d.pod.Declared
	}
	if len(ports) == 1 {
		return ports[0], nil
	}
	return 0, errors.New("to which port? Give it behind the destination, as shop/db:5432")
}

// choose is an address of the destination, of a family that the source has if it can be.
func (d *destination) choose(src source, text string) (netip.Addr, error) {
	var addrs []netip.Addr
	switch {
	case d.pod != nil:
		addrs = d.pod.Addrs
	case d.service.Headless:
		for _, p := range d.service.Ports {
			for _, e := range p.Endpoints {
				addrs = append(addrs, e.Addr.Addr())
			}
		}
	default:
		addrs = slices.Concat(d.service.VIPs, d.service.ExternalIPs, d.service.LoadBalancerIPs)
	}
	for _, addr := range addrs {
		if src.to(addr).IsValid() {
			return addr, nil
		}
	}
	if len(addrs) == 0 && d.service != nil && d.service.Headless {
		return netip.Addr{}, nil // nobody is behind it
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address yet", text)
	}
	return addrs[0], nil
}

// to is the source's address of the family of addr; zero: it has none.
func (s source) to(addr netip.Addr) netip.Addr {
	if s.pod == nil {
		if s.addr.Is4() == addr.Is4() {
			return s.addr
		}
		return netip.Addr{}
	}
	if s.addr.IsValid() && s.addr.Is4() == addr.Is4() {
		return s.addr
	}
	for _, own := range s.pod.Addrs {
		if own.Is4() == addr.Is4() {
			return own
		}
	}
	return netip.Addr{}
}

func serviceNamed(n *fleet.Node, text string) (*workload.Service, error) {
	namespace, name, qualified := strings.Cut(text, "/")
	if !qualified {
		namespace, name = "", text
	}
	var found *workload.Service
	for i := range n.Dump.Services {
		s := &n.Dump.Services[i]
		if s.Name != name || qualified && s.Namespace != namespace {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("the Service %s is in %s and %s: say which, as %s/%s", text, found.Namespace, s.Namespace, s.Namespace, name)
		}
		found = s
	}
	return found, nil
}

func serviceAt(n *fleet.Node, addr netip.Addr) *workload.Service {
	for i := range n.Dump.Services {
		s := &n.Dump.Services[i]
		if slices.Contains(s.VIPs, addr) || slices.Contains(s.ExternalIPs, addr) || slices.Contains(s.LoadBalancerIPs, addr) {
			return s
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// PodSpec says what a pod is like.
type PodSpec struct {
	Namespace, Name string                 // required
	ServiceAccount  string                 // default
	Labels          map[string]string      // none
	Ports           []corev1.ContainerPort // of its one container; none
	Readiness       *corev1.Probe          // none
	Liveness        *corev1.Probe          // none
	Lifecycle       *corev1.Lifecycle      // none
	Annotations     map[string]string      // none
	RuntimeClass    string                 // none
	Unready         bool                   // it is ready once its network is
	Hasty           bool                   // do not wait until every ztunnel knows the pod
	Static          bool                   // a file of the node made it: its object is a mirror with another UID
	Astray          bool                   // its cgroup is not below Node.Cgroup
	Unmeshed        bool                   // leave culvert-cni out of its chain, as if started before it was installed
}

// Pod is a pod: a netns with a process in it, the agent. Its programs run in
// its Place.
type Pod struct {
	*Place
	Node            *Node
	Namespace, Name string
	ServiceAccount  string
	UID             string
	ContainerID     string // of its sandbox
	IP4, IP6        netip.Addr

	meshed bool
	object *corev1.Pod // guarded by the cluster's lock
}

// Pod starts a pod as a kubelet does: the object is there, then the sandbox,
// then CNI ADD, then the containers, then the status. If ADD fails, all is
// undone and the error is the plugin's.
func (n *Node) Pod(ctx context.Context, spec PodSpec) (*Pod, error) {
	p, err := n.schedule(spec)
	if err != nil {
		return nil, err
	}
	if err := p.start(ctx, spec); err != nil {
		return nil, errors.Join(err, p.Delete(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// schedule writes the pod's object.
func (n *Node) schedule(spec PodSpec) (*Pod, error) {
	if spec.ServiceAccount == "" {
		spec.ServiceAccount = "default"
	}
	p := &Pod{
		Node: n, Namespace: spec.Namespace, Name: spec.Name, ServiceAccount: spec.ServiceAccount,
		UID: newUID(), ContainerID: newContainerID(), meshed: !spec.Unmeshed && !n.lab.opts.Unmeshed,
	}
	if spec.Static {
		p.UID = strings.ReplaceAll(p.UID, "-", "") // a hash of its file
	}
	p.object = p.newObject(spec)
	if spec.Static {
		p.object.UID = types.UID(newUID())
		metav1.SetMetaDataAnnotation(&p.object.ObjectMeta, "kubernetes.io/config.hash", p.UID)
		metav1.SetMetaDataAnnotation(&p.object.ObjectMeta, corev1.MirrorPodAnnotationKey, p.UID)
	}
	c := n.lab.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.namespaces[spec.Namespace] == nil {
		return nil, fmt.Errorf("start pod %v: there is no such namespace", p)
	}
	if _, ok := c.objects[objectFile("Pod", p.Namespace, p.Name)]; ok {
		return nil, fmt.Errorf("start pod %v: there is one", p)
	}
	c.pods[p.UID] = p.object
	return p, errors.Join(c.serviceAccount(p.Namespace, p.ServiceAccount), c.put(p.object))
}

func (p *Pod) newObject(spec PodSpec) *corev1.Pod {
	var class *string
	if spec.RuntimeClass != "" {
		class = &spec.RuntimeClass
	}
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID), Labels: maps.Clone(spec.Labels),
			CreationTimestamp: metav1.Now(), Annotations: maps.Clone(spec.Annotations),
		},
		Spec: corev1.PodSpec{
			NodeName: p.Node.Name, ServiceAccountName: p.ServiceAccount, RuntimeClassName: class,
			Containers: []corev1.Container{{
				Name: "app", Image: "lab/app", Ports: spec.Ports,
				ReadinessProbe: spec.Readiness, LivenessProbe: spec.Liveness, Lifecycle: spec.Lifecycle,
			}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
}

func (p *Pod) start(ctx context.Context, spec PodSpec) error {
	l := p.Node.lab
	name := p.Node.Name + "-" + p.Namespace + "-" + p.Name
	ns, err := l.newNamespace(name + "-" + p.ContainerID[:6])
	if err != nil {
		return err
	}
	above := p.Node.Name
	if spec.Astray {
		above = "astray"
	}
	p.Place, err = l.newPlace(name, ns, above, "pods", p.UID)
	if err != nil {
		return errors.Join(err, l.dropNamespace(ns))
	}
	p.Node.mu.Lock()
	p.Node.pods[p.UID] = p
	p.Node.mu.Unlock()
	if err := p.add(ctx); err != nil {
		return err
	}
	if _, err := p.Agent(); err != nil {
		return err
	}
	if err := l.enterScript(p.script(), p.Place); err != nil {
		return err
	}
	if err := p.SetReady(!spec.Unready); err != nil || spec.Hasty {
		return err
	}
	return l.Settle(ctx)
}

// change edits the pod's object and with it the endpoints of its services.
func (p *Pod) change(edit func(*corev1.Pod)) error {
	c := p.Node.lab.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	edit(p.object)
	return errors.Join(c.put(p.object), c.reconcile(p.Namespace))
}

// SetReady reports the pod's addresses, that it runs, and whether it is ready.
func (p *Pod) SetReady(ready bool) error {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return p.change(func(o *corev1.Pod) {
		o.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: p.IP4.String(), HostIP: p.Node.IP4.String(),
			PodIPs:     []corev1.PodIP{{IP: p.IP4.String()}, {IP: p.IP6.String()}},
			HostIPs:    []corev1.HostIP{{IP: p.Node.IP4.String()}, {IP: p.Node.IP6.String()}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
		}
	})
}

// SetLabel sets a label of the pod, or removes it if value is empty.
func (p *Pod) SetLabel(key, value string) error {
	return p.change(func(o *corev1.Pod) { setLabel(&o.ObjectMeta, key, value) })
}

// SPIFFEID is the identity the pod has in a trust domain.
func (p *Pod) SPIFFEID(trustDomain string) string {
	return fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", trustDomain, p.Namespace, p.ServiceAccount)
}

// At is the pod's address of a family, "tcp4" or "tcp6", and a port.
func (p *Pod) At(network string, port uint16) netip.AddrPort {
	if network == "tcp6" {
		return netip.AddrPortFrom(p.IP6, port)
	}
	return netip.AddrPortFrom(p.IP4, port)
}

// Delete ends the pod as a kubelet does: its processes, CNI DEL, its sandbox,
// its object. It goes on after an error.
func (p *Pod) Delete(ctx context.Context) error {
	var errs []error
	if p.Place != nil {
		errs = append(errs, p.Place.remove(ctx), p.del(ctx))
	}
	return errors.Join(append(errs, p.forget())...)
}

// Vanish ends the pod without CNI DEL, as a node that lost its runtime does.
func (p *Pod) Vanish(ctx context.Context) error {
	return errors.Join(p.Place.remove(ctx), p.forget())
}

func (p *Pod) forget() error {
	n, c := p.Node, p.Node.lab.cluster
	n.mu.Lock()
	delete(n.pods, p.UID)
	n.mu.Unlock()
	var errs []error
	if p.Place != nil {
		errs = append(errs, n.lab.dropNamespace(p.ns), n.lab.removeScript(p.script()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, p.UID)
	return errors.Join(append(errs, c.remove(objectFile("Pod", p.Namespace, p.Name)), c.reconcile(p.Namespace))...)
}

// Pods are the pods that run on the node, by UID.
func (n *Node) Pods() []*Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.SortedFunc(maps.Values(n.pods), func(a, b *Pod) int {
		return slices.Compare([]byte(a.UID), []byte(b.UID))
	})
}

// script is the name of the pod's EnterScript.
func (p *Pod) script() string { return p.Namespace + "-" + p.Name }

// As is the pod's object as if its ServiceAccount were another, for Believe.
// The pod itself stays what it is.
func (p *Pod) As(serviceAccount string) (string, error) {
	c := p.Node.lab.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	object := p.object.DeepCopy()
	object.Spec.ServiceAccountName = serviceAccount
	text, err := yaml.Marshal(object)
	return string(text), err
}

// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// cluster stands for the API server: it writes each object as a file into the
// directory of every node and of the CA, which watch it.
type cluster struct {
	mu         sync.Mutex // guards what follows, and the directories
	views      []view
	objects    map[string][]byte // by file name
	namespaces map[string]*corev1.Namespace
	services   []*corev1.Service
	pods       map[string]*corev1.Pod // by UID
	vips       int
	marker     int // see Settle
}

// view is a directory that is kept as the cluster is.
type view struct {
	dir  string
	node string // it has no pods of other nodes; empty: all objects
}

func (v view) has(object []byte) bool {
	if v.node == "" {
		return true
	}
	var pod corev1.Pod
	if err := yaml.Unmarshal(object, &pod); err != nil || pod.Kind != "Pod" {
		return true
	}
	return pod.Spec.NodeName == v.node
}

func newCluster() *cluster {
	return &cluster{
		objects:    make(map[string][]byte),
		namespaces: make(map[string]*corev1.Namespace),
		pods:       make(map[string]*corev1.Pod),
	}
}

// join adds a directory, which from now on has all objects that are in view.
func (c *cluster) join(v view) error {
	if err := os.MkdirAll(v.dir, 0o755); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.views = append(c.views, v)
	for name, object := range c.objects {
		if !v.has(object) {
			continue
		}
		if err := writeAtomic(filepath.Join(v.dir, name), object); err != nil {
			return err
		}
	}
	return nil
}

// put writes an object everywhere. c.mu is held.
func (c *cluster) put(object any) error {
	doc, err := yaml.Marshal(object)
	if err != nil {
		return err
	}
	return c.putYAML(doc)
}

func (c *cluster) putYAML(doc []byte) error {
	name, err := fileName(doc)
	if err != nil {
		return err
	}
	c.objects[name] = doc
	for _, v := range c.views {
		if !v.has(doc) {
			continue
		}
		if err := writeAtomic(filepath.Join(v.dir, name), doc); err != nil {
			return err
		}
	}
	return nil
}

// remove removes the object of that file name everywhere. c.mu is held.
func (c *cluster) remove(name string) error {
	if _, ok := c.objects[name]; !ok {
		return fmt.Errorf("no object %s", name)
	}
	delete(c.objects, name)
	var errs []error
	for _, v := range c.views {
		if err := os.Remove(filepath.Join(v.dir, name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Apply creates or replaces the objects of a YAML text, on all nodes and the CA.
func (l *Lab) Apply(text string) error {
	l.cluster.mu.Lock()
	defer l.cluster.mu.Unlock()
	for _, doc := range documents(text) {
		if err := l.cluster.putYAML(doc); err != nil {
			return err
		}
	}
	return nil
}

// Delete deletes an object. namespace is empty for those that have none.
func (l *Lab) Delete(kind, namespace, name string) error {
	l.cluster.mu.Lock()
	defer l.cluster.mu.Unlock()
	if kind == "Service" {
		return l.cluster.removeService(namespace, name)
	}
	return l.cluster.remove(objectFile(kind, namespace, name))
}

// Objects is the directory of YAML that the node's ztunnel watches.
func (n *Node) Objects() string { return n.yaml }

// Believe writes objects into this node's directory only: what the node then
// thinks of the cluster is not what others know. The next change of the same
// object through the lab ends it.
func (n *Node) Believe(text string) error {
	for _, doc := range documents(text) {
		name, err := fileName(doc)
		if err != nil {
			return err
		}
		if err := writeAtomic(filepath.Join(n.yaml, name), doc); err != nil {
			return err
		}
	}
	return nil
}

// Namespace creates or replaces a namespace and its default ServiceAccount.
func (l *Lab) Namespace(name string, labels map[string]string) error {
	l.cluster.mu.Lock()
	defer l.cluster.mu.Unlock()
	ns := &corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: maps.Clone(labels)},
	}
	l.cluster.namespaces[name] = ns
	return errors.Join(l.cluster.put(ns), l.cluster.serviceAccount(name, "default"))
}

// Label sets a label of a namespace, or removes it if value is empty.
func (l *Lab) Label(namespace, key, value string) error {
	l.cluster.mu.Lock()
	defer l.cluster.mu.Unlock()
	ns, ok := l.cluster.namespaces[namespace]
	if !ok {
		return fmt.Errorf("label namespace %s: there is none", namespace)
	}
	setLabel(&ns.ObjectMeta, key, value)
	return l.cluster.put(ns)
}

func setLabel(m *metav1.ObjectMeta, key, value string) {
	if m.Labels == nil {
		m.Labels = make(map[string]string)
	}
	m.Labels[key] = value
	if value == "" {
		delete(m.Labels, key)
	}
}

// serviceAccount makes sure that it exists. c.mu is held.
func (c *cluster) serviceAccount(namespace, name string) error {
	if _, ok := c.objects[objectFile("ServiceAccount", namespace, name)]; ok {
		return nil
	}
	return c.put(&corev1.ServiceAccount{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
	})
}

// documents splits a YAML text at its --- lines.
func documents(text string) [][]byte {
	var docs [][]byte
	for doc := range strings.SplitSeq("\n"+text, "\n---") {
		if strings.TrimSpace(doc) != "" {
			docs = append(docs, []byte(strings.TrimLeft(doc, "\n")))
		}
	}
	return slices.Clip(docs)
}

func fileName(doc []byte) (string, error) {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ObjectMeta `json:"metadata"`
	}
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return "", fmt.Errorf("read an object: %w", err)
	}
	if head.Kind == "" || head.Metadata.Name == "" {
		return "", errors.New("read an object: it needs a kind and a name")
	}
	return objectFile(head.Kind, head.Metadata.Namespace, head.Metadata.Name), nil
}

func objectFile(kind, namespace, name string) string {
	parts := []string{strings.ToLower(kind), namespace, name, "yaml"}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ".")
}

// writeAtomic replaces a file in one step. The new one is made beside the
// directory, so that a watcher of the directory sees nothing but the result.
func writeAtomic(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(filepath.Dir(path)), ".new-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

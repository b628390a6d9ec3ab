// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8sjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"sigs.k8s.io/yaml"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// object is what every kind that we read is.
type object interface {
	metav1.Object
	runtime.Object
}

// kind is one that we read.
type kind struct {
	apiVersions []string
	make        func() object
}

const istioGroup = "security.istio.io"

var (
	istioVersions = []string{istioGroup + "/v1", istioGroup + "/v1beta1"}

	kinds = map[string]kind{
		"Namespace":           {[]string{"v1"}, func() object { return &corev1.Namespace{} }},
		"Node":                {[]string{"v1"}, func() object { return &corev1.Node{} }},
		"ServiceAccount":      {[]string{"v1"}, func() object { return &corev1.ServiceAccount{} }},
		"Pod":                 {[]string{"v1"}, func() object { return &corev1.Pod{} }},
		"Service":             {[]string{"v1"}, func() object { return &corev1.Service{} }},
		"RuntimeClass":        {[]string{"node.k8s.io/v1"}, func() object { return &nodev1.RuntimeClass{} }},
		"EndpointSlice":       {[]string{"discovery.k8s.io/v1"}, func() object { return &discoveryv1.EndpointSlice{} }},
		"PeerAuthentication":  {istioVersions, func() object { return &source.PeerAuthentication{} }},
		"AuthorizationPolicy": {istioVersions, func() object { return &source.AuthorizationPolicy{} }},
	}

	// strict refuses fields that do not exist, in the wrong case, or twice. Its
	// scheme is empty: a decoder with defaults or conversions would hide mistakes.
	strict = k8sjson.NewSerializerWithOptions(k8sjson.DefaultMetaFactory,
		runtime.NewScheme(), runtime.NewScheme(), k8sjson.SerializerOptions{Strict: true})
)

// place is where an object stands.
type place struct {
	file     string
	document int // from 1, as a reader counts
	item     int // of a List, from 1; 0: not in one
}

func (p place) String() string {
	if p.item > 0 {
		return fmt.Sprintf("%s: document %d: items[%d]", p.file, p.document, p.item-1)
	}
	return fmt.Sprintf("%s: document %d", p.file, p.document)
}

// entry is one object that we read.
type entry struct {
	place
	kind   string
	object object
}

// name returns "Kind namespace/name".
func (e entry) name() string { return objectName(e.kind, e.object.GetNamespace(), e.object.GetName()) }

func objectName(kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return strings.TrimRight(kind+" "+name, " /")
}

// header is what tells how to decode the rest.
type header struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   json.RawMessage   `json:"metadata"`
	Items      []json.RawMessage `json:"items"`
}

// name returns "Kind namespace/name", as far as they are there.
func (h header) name() string {
	var meta struct{ Namespace, Name any }
	_ = json.Unmarshal(h.Metadata, &meta) // what is wrong with it is said later
	namespace, _ := meta.Namespace.(string)
	name, _ := meta.Name.(string)
	return objectName(h.Kind, namespace, name)
}

// contents is what a file holds.
type contents struct {
	entries []entry
	ignored []string // objects of kinds that we do not need
	errs    []error  // each names file, document and, where there is one, field
}

// decode reads a whole file.
func decode(name string, data []byte) contents {
	var c contents
	docs, err := split(name, data)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("%s: %w", name, err))
	}
	for i, doc := range docs {
		at := place{file: name, document: i + 1}
		text, err := doc.toJSON()
		if err != nil {
			c.errs = append(c.errs, fmt.Errorf("%v: %w", at, err))
			continue
		}
		c.add(at, text, "", "")
	}
	return c
}

// toJSON is also where YAML's duplicate keys are found.
func (d document) toJSON() ([]byte, error) {
	if d.json {
		return d.text, nil
	}
	text, err := yaml.YAMLToJSONStrict(d.text)
	if err != nil {
		// Again, so that the line in the message is the file's and not the document's.
		_, err = yaml.YAMLToJSONStrict(append(bytes.Repeat([]byte("\n"), d.line), d.text...))
	}
	return text, err
}

// add decodes one object. Those in a typed list, like PodList, may leave out
// what they are.
func (c *contents) add(at place, text []byte, apiVersion, kindName string) {
	fail := func(name string, err error) {
		if name != "" {
			err = fmt.Errorf("%s: %w", name, err)
		}
		c.errs = append(c.errs, fmt.Errorf("%v: %w", at, err))
	}
	var h header
	if err := json.Unmarshal(text, &h); err != nil || !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		fail("", errors.New("not a Kubernetes object"))
		return
	}
	if h.Kind == "" && h.APIVersion == "" {
		h.APIVersion, h.Kind = apiVersion, kindName
	}
	switch {
	case h.Kind == "":
		fail("", errors.New("kind: required"))
		return
	case h.APIVersion == "":
		fail(h.Kind, errors.New("apiVersion: required"))
		return
	case h.isList():
		if at.item > 0 {
			fail(h.Kind, errors.New("a list in a list"))
			return
		}
		for i, item := range h.Items {
			at.item = i + 1
			c.add(at, item, h.APIVersion, strings.TrimSuffix(h.Kind, "List"))
		}
		return
	}
	name := h.name()
	k, known := kinds[h.Kind]
	if !known {
		if err := h.mistaken(); err != nil {
			fail(name, err)
			return
		}
		c.ignored = append(c.ignored, fmt.Sprintf("%v: %s (%s)", at, name, h.APIVersion))
		return
	}
	if !slices.Contains(k.apiVersions, h.APIVersion) {
		fail(name, fmt.Errorf("apiVersion: %q: not %s", h.APIVersion, strings.Join(k.apiVersions, " or ")))
		return
	}
	e := entry{place: at, kind: h.Kind, object: k.make()}
	if err := decodeStrictly(text, k.make, e.object); err != nil {
		fail(name, err)
		return
	}
	if e.object.GetNamespace() == "" && namespaced(h.Kind) {
		e.object.SetNamespace(metav1.NamespaceDefault)
	}
	if errs := validate(e.object); len(errs) > 0 {
		for _, err := range errs {
			fail(e.name(), err)
		}
		return
	}
	c.entries = append(c.entries, e)
}

// isList reports whether it holds objects: a List, or a kind's own list.
func (h header) isList() bool {
	if h.Kind == "List" {
		return h.APIVersion == "v1"
	}
	single, list := strings.CutSuffix(h.Kind, "List")
	_, known := kinds[single]
	return list && known
}

// mistaken refuses kinds that look like one of ours: a policy with a typing
// error in its kind must not be ignored.
func (h header) mistaken() error {
	group, _, _ := strings.Cut(h.APIVersion, "/")
	if group == istioGroup && h.Kind != "RequestAuthentication" && h.Kind != "RequestAuthenticationList" {
		return fmt.Errorf("kind: %q: not one of %s", h.Kind, istioGroup)
	}
	for name := range kinds {
		if strings.EqualFold(name, h.Kind) {
			return fmt.Errorf("kind: %q: not %s", h.Kind, name)
		}
	}
	return nil
}

func namespaced(kind string) bool {
	return kind != "Namespace" && kind != "Node" && kind != "RuntimeClass"
}

// decodeStrictly fills into; an error names the field.
func decodeStrictly(text []byte, empty func() object, into object) error {
	_, _, err := strict.Decode(text, nil, into)
	if err == nil {
		return nil
	}
	if unknown, ok := runtime.AsStrictDecodingError(err); ok {
		return errors.Join(unknown.Errors()...)
	}
	if path, value := blame(text, empty); path != "" {
		return fmt.Errorf("%s: %s: %v", path, value, strings.TrimPrefix(err.Error(), "json: "))
	}
	return err
}

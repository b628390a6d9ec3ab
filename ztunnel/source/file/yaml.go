// SPDX-License-Identifier: Apache-2.0

package file

import (
	"encoding/json"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// What bounds a document: no object of Kubernetes comes near, and aliases that
// repeat each other would not end.
const (
	maxDepth     = 200
	maxExpansion = 16 // times its own length, as JSON
	maxShort     = 64 << 10
)

var errExpands = errors.New("aliases make it too long, or it is nested too deep")

// fault is a mistake at a place of an object. Whether it matters depends on the
// object's kind.
type fault struct {
	path []string // of the map or value; an item of a list is its number
	line int      // of the document, from 1; 0: unknown
	text string
}

// converter writes a document's JSON as kubectl would, and notes where two
// readers could read it differently: keys that collide, or that are no text.
type converter struct {
	out    []byte
	most   int // bytes of out, less what faults and merged maps take
	path   []string
	faults []fault
}

// toJSON returns nil, without an error, of a document without a node.
func toJSON(text []byte) ([]byte, []fault, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, nil, err
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return []byte("null"), nil, nil
	}
	c := converter{out: make([]byte, 0, len(text)+len(text)/2), most: maxExpansion*len(text) + maxShort}
	err := c.node(doc.Content[0], 0)
	return c.out, c.faults, err
}

// fault notes a mistake. By aliases one that is written once may be there any number of
// times, so that faults count like what is written: node and merged refuse what is too much.
func (c *converter) fault(n *yaml.Node, format string, args ...any) {
	c.most -= 64 + 16*len(c.path)
	c.faults = append(c.faults, fault{slices.Clone(c.path), n.Line, fmt.Sprintf(format, args...)})
}

func (c *converter) node(n *yaml.Node, depth int) error {
	if depth > maxDepth || len(c.out) > c.most {
		return errExpands
	}
	switch n.Kind {
	case yaml.AliasNode:
		return c.node(n.Alias, depth+1)
	case yaml.MappingNode:
		return c.mapping(n, depth)
	case yaml.SequenceNode:
		if n.Tag != "!!seq" {
			c.fault(n, "%.80s: a tag that means nothing here", n.Tag)
		}
		c.out = append(c.out, '[')
		for i, item := range n.Content {
			if i > 0 {
				c.out = append(c.out, ',')
			}
			c.path = append(c.path, strconv.Itoa(i))
			if err := c.node(item, depth+1); err != nil {
				return err
			}
			c.path = c.path[:len(c.path)-1]
		}
		c.out = append(c.out, ']')
		return nil
	}
	return c.scalar(n)
}

func (c *converter) mapping(n *yaml.Node, depth int) error {
	if n.Tag != "!!map" {
		c.fault(n, "%.80s: a tag that means nothing here", n.Tag)
	}
	content := n.Content
	if slices.ContainsFunc(content, merges) {
		var err error
		if content, err = c.merged(n, depth); err != nil {
			return err
		}
	}
	c.out = append(c.out, '{')
	var seen keys
	first := true
	for i := 0; i+1 < len(content); i += 2 {
		key, fine := c.key(content[i])
		if !fine {
			continue
		}
		if seen.add(key, len(content)/2) {
			c.fault(content[i], "key %.80q: twice", key)
			continue
		}
		if !first {
			c.out = append(c.out, ',')
		}
		first = false
		if err := c.text(key); err != nil {
			return err
		}
		c.out = append(c.out, ':')
		c.path = append(c.path, key)
		if err := c.node(content[i+1], depth+1); err != nil {
			return err
		}
		c.path = c.path[:len(c.path)-1]
	}
	c.out = append(c.out, '}')
	return nil
}

// keys are those of a map so far; most maps have few.
type keys struct {
	few  []string
	many map[string]bool
}

func (k *keys) add(key string, of int) (twice bool) {
	if of <= 8 {
		twice = slices.Contains(k.few, key)
		k.few = append(k.few, key)
		return twice
	}
	if k.many == nil {
		k.many = make(map[string]bool, of)
	}
	twice = k.many[key]
	k.many[key] = true
	return twice
}

var decimal = regexp.MustCompile(`^(0|-?[1-9][0-9]{0,17})$`)

// key returns a key's text. A number counts only if there is one way to write it.
func (c *converter) key(n *yaml.Node) (text string, fine bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Kind != yaml.ScalarNode:
		c.fault(n, "a key that is no text")
		return "", false
	case isText(n), n.Tag == "!!int" && n.Style == 0 && decimal.MatchString(n.Value):
		return n.Value, true
	}
	c.fault(n, "key %.80s: not a text; write it in quotes", n.Value)
	return "", false
}

// isText says it as YAML 1.1 does, by which Kubernetes goes: "yes" is true.
func isText(n *yaml.Node) bool {
	switch n.Tag {
	case "!!str":
		return n.Style != 0 || !isOldBool(n.Value)
	case "!!timestamp": // nothing in JSON
		return true
	}
	return n.Tag == "!!merge" && n.Style != 0
}

func isOldBool(s string) bool {
	switch s {
	case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF":
		return true
	}
	return false
}

func (c *converter) scalar(n *yaml.Node) error {
	switch {
	case isText(n):
		return c.text(n.Value)
	case n.Tag == "!!null":
		c.out = append(c.out, "null"...)
		return nil
	case n.Tag == "!!str":
		c.out = strconv.AppendBool(c.out, strings.ContainsAny(n.Value[:1], "yY") || strings.EqualFold(n.Value, "on"))
		return nil
	case n.Tag == "!!int" && n.Style == 0 && decimal.MatchString(n.Value):
		c.out = append(c.out, n.Value...)
		return nil
	}
	var v any
	_ = n.Decode(&v) // of what cannot be decoded v stays nil
	switch v.(type) {
	case bool, int, int64, uint64, float64:
		if text, err := json.Marshal(v); err == nil { // not of NaN
			c.out = append(c.out, text...)
			return nil
		}
	}
	c.fault(n, "%.80s %.80q: not a text, number, true, false or null", n.Tag, n.Value)
	c.out = append(c.out, "null"...)
	return nil
}

func (c *converter) text(s string) (err error) {
	c.out, err = jsontext.AppendQuote(c.out, s)
	return err
}

func merges(n *yaml.Node) bool { return n.Tag == "!!merge" && n.Style == 0 }

// merged returns a map's keys and values with those of the maps that "<<" names, which
// count where the map itself, or one that was named before, has no such key.
func (c *converter) merged(n *yaml.Node, depth int) ([]*yaml.Node, error) {
	if depth > maxDepth {
		return nil, errExpands
	}
	var own, from []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !merges(n.Content[i]) {
			own = append(own, n.Content[i], n.Content[i+1])
			continue
		}
		switch v := target(n.Content[i+1]); v.Kind {
		case yaml.MappingNode:
			from = append(from, v)
		case yaml.SequenceNode:
			for _, item := range v.Content {
				from = append(from, target(item))
			}
		default:
			from = append(from, v)
		}
	}
	has := map[string]bool{}
	for i := 0; i < len(own); i += 2 {
		has[target(own[i]).Value] = true
	}
	for _, m := range from {
		if m.Kind != yaml.MappingNode {
			c.fault(m, "<<: not a map")
			continue
		}
		content, err := c.merged(m, depth+1)
		if err != nil {
			return nil, err
		}
		for i := 0; i+1 < len(content); i += 2 {
			if key := target(content[i]).Value; !has[key] {
				has[key] = true
				own = append(own, content[i], content[i+1])
			}
		}
		if c.most -= 1 + len(content); len(c.out) > c.most {
			return nil, errExpands
		}
	}
	return own, nil
}

func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

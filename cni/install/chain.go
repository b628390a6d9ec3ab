// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// entry is the plugin's element of a list of plugins.
type entry struct {
	name     string // its type, which is the name of the binary too
	text     json.RawMessage
	versions []string // of CNI, that the plugin speaks
}

// isIn reports whether the object at s is an entry of the plugin, however it is
// configured.
func (e entry) isIn(data []byte, s span) bool {
	got, err := text(data, s, "type")
	return err == nil && got == e.name
}

// chain returns the list of plugins at s with the entry last, once, and as it
// should be. If it is so already, it returns the data as they are.
func (e entry) chain(data []byte, s span) ([]byte, error) {
	plugins, err := e.list(data, s)
	if err != nil {
		return nil, err
	}
	last := len(plugins) - 1
	if same(plugins[last].of(data), e.text) && !slices.ContainsFunc(plugins[:last], func(p span) bool { return e.isIn(data, p) }) {
		return data, nil
	}
	edits, kept := e.cuts(data, plugins)
	if kept == (span{}) {
		return nil, fmt.Errorf("plugins: no plugin but %s, which makes no interface", e.name)
	}
	return apply(data, append(edits, edit{span{kept.end, kept.end}, e.after(data, kept)})...), nil
}

// list returns the plugins of the list at s, if container runtimes and the
// plugin would take it.
func (e entry) list(data []byte, s span) ([]span, error) {
	if err := e.checkNetwork(data, s); err != nil {
		return nil, err
	}
	array, found, err := lookup(data, s, "plugins")
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errors.New("plugins: missing")
	}
	plugins, err := items(data, array)
	if err != nil {
		return nil, fmt.Errorf("plugins: %v", err)
	}
	if len(plugins) == 0 {
		return nil, errors.New("plugins: empty: there is nothing to chain behind")
	}
	for i, p := range plugins {
		switch name, err := text(data, p, "type"); {
		case err != nil:
			return nil, fmt.Errorf("plugins[%d]: %v", i, err)
		case name == "":
			return nil, fmt.Errorf("plugins[%d]: no type", i)
		}
	}
	return plugins, nil
}

// checkNetwork looks at what a list and a single config have in common. A
// version that the plugin does not speak would fail every pod of the node.
func (e entry) checkNetwork(data []byte, s span) error {
	name, err := text(data, s, "name")
	if err != nil {
		return err
	}
	if name == "" {
		return errors.New("name: missing")
	}
	version, err := text(data, s, "cniVersion")
	if err != nil {
		return err
	}
	offered := []string{version}
	if more, found, _ := lookup(data, s, "cniVersions"); found {
		var versions []string
		if err := json.Unmarshal(more.of(data), &versions); err != nil {
			return errors.New("cniVersions: want an array of strings")
		}
		offered = append(offered, versions...)
	}
	if !slices.ContainsFunc(offered, func(v string) bool { return slices.Contains(e.versions, v) }) {
		return fmt.Errorf("cniVersion: %q: %s speaks %s", version, e.name, strings.Join(e.versions, ", "))
	}
	return nil
}

// cuts removes the plugin's entries of a list, and says which plugin is then the
// last; none is the zero span.
func (e entry) cuts(data []byte, plugins []span) (edits []edit, kept span) {
	for i, p := range plugins {
		switch {
		case !e.isIn(data, p):
			kept = p
		case kept != span{}: // with the comma before it
			edits = append(edits, edit{span: span{plugins[i-1].end, p.end}})
		case i+1 < len(plugins): // with the comma behind it
			edits = append(edits, edit{span: span{p.start, plugins[i+1].start}})
		default:
			edits = append(edits, edit{span: p})
		}
	}
	return edits, kept
}

// after is the text of the entry behind the plugin at last, laid out as that is.
func (e entry) after(data []byte, last span) []byte {
	before := data[:last.start]
	space := before[len(bytes.TrimRight(before, " \t\r\n")):]
	out := append([]byte(","), space...)
	newline := bytes.LastIndexByte(space, '\n')
	if newline < 0 {
		return append(out, e.text...)
	}
	indent := "  "
	if bytes.ContainsRune(space, '\t') {
		indent = "\t"
	}
	return append(out, laidOut(e.text, string(space[newline+1:]), indent)...)
}

// listOf returns a list of plugins that means what the single config at s means,
// with the entry behind it.
func (e entry) listOf(data []byte, s span) ([]byte, error) {
	if err := e.checkNetwork(data, s); err != nil {
		return nil, err
	}
	if name, err := text(data, s, "type"); err != nil || name == "" {
		return nil, errors.New("type: missing")
	}
	raw := func(key string) json.RawMessage {
		at, _, _ := lookup(data, s, key)
		return at.of(data)
	}
	return marshal(struct {
		CNIVersion  json.RawMessage   `json:"cniVersion,omitempty"`
		CNIVersions json.RawMessage   `json:"cniVersions,omitempty"`
		Name        json.RawMessage   `json:"name"`
		Plugins     []json.RawMessage `json:"plugins"`
	}{raw("cniVersion"), raw("cniVersions"), raw("name"), []json.RawMessage{s.of(data), e.text}})
}

// unchain returns data without the plugin's entries in any list of plugins,
// those of Multus's delegates included.
func (e entry) unchain(data []byte) ([]byte, error) {
	edits, err := e.uncut(data, whole(data))
	if err != nil {
		return nil, err
	}
	return apply(data, edits...), nil
}

func (e entry) uncut(data []byte, s span) ([]edit, error) {
	all, err := fields(data, s)
	if errors.Is(err, errNotObject) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var edits []edit
	for _, f := range all {
		if f.key != "plugins" && f.key != "delegates" {
			continue
		}
		elements, err := items(data, f.value)
		if err != nil {
			continue // of another meaning than in a list of plugins
		}
		if f.key == "plugins" {
			cuts, _ := e.cuts(data, elements)
			edits = append(edits, cuts...)
		}
		for _, element := range elements {
			if e.isIn(data, element) {
				continue
			}
			deeper, err := e.uncut(data, element)
			if err != nil {
				return nil, err
			}
			edits = append(edits, deeper...)
		}
	}
	return edits, nil
}

// names reports whether some list of plugins in data has the plugin.
func (e entry) names(data []byte) bool {
	edits, err := e.uncut(data, whole(data))
	return err == nil && len(edits) > 0
}

// marshal lays out a file of ours. What others wrote keeps its numbers and keys.
func marshal(v any) ([]byte, error) {
	var compact bytes.Buffer
	enc := json.NewEncoder(&compact)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return append(laidOut(compact.Bytes(), "", "  "), '\n'), nil
}

func laidOut(text []byte, prefix, indent string) []byte {
	var out bytes.Buffer
	if err := json.Indent(&out, bytes.TrimSpace(text), prefix, indent); err != nil {
		return text // it was read as JSON before
	}
	return out.Bytes()
}

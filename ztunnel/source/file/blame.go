// SPDX-License-Identifier: Apache-2.0

package file

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	kjson "sigs.k8s.io/json"
)

// What bounds the search: after so many values an error has no path, and what
// is nested deeper is taken as one value.
const (
	blameLimit = 5000
	blameDepth = 30
)

// blame finds the value for which a text cannot be decoded, and where it
// stands. Decoders name a Go type and a path without indices, or, for times and
// quantities, nothing; so each value is tried alone, in a text that is
// otherwise empty.
func blame(text []byte, empty func() object) (path, value string) {
	var root any
	if json.Unmarshal(text, &root) != nil {
		return "", ""
	}
	tries := 0
	var walk func(node any, path string, depth int, alone func(any) any) (string, string)
	walk = func(node any, path string, depth int, alone func(any) any) (string, string) {
		inside := node
		if depth == blameDepth {
			inside = nil
		}
		switch node := inside.(type) {
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(node)) {
				at := key
				if path != "" {
					at = path + "." + key
				}
				inner := func(v any) any { return alone(map[string]any{key: v}) }
				if where, what := walk(node[key], at, depth+1, inner); where != "" {
					return where, what
				}
			}
			if len(node) > 0 {
				return "", ""
			}
		case []any:
			inner := func(v any) any { return alone([]any{v}) }
			for i, v := range node {
				if where, what := walk(v, fmt.Sprintf("%s[%d]", path, i), depth+1, inner); where != "" {
					return where, what
				}
			}
			if len(node) > 0 {
				return "", ""
			}
		}
		if tries++; tries > blameLimit || decodes(alone(node), empty()) {
			return "", ""
		}
		shown, _ := json.Marshal(node)
		return path, fmt.Sprintf("%.80s", shown)
	}
	return walk(root, "", 0, func(v any) any { return v })
}

func decodes(node any, into object) bool {
	text, err := json.Marshal(node)
	if err != nil {
		return true
	}
	return kjson.UnmarshalCaseSensitivePreserveInts(text, into) == nil
}

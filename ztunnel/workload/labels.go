// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Labels are those of a pod, in one piece of memory, and comparable: each key with
// its value, sorted, and each of both with a NUL behind it.
type Labels string

// NewLabels writes labels into one string. Kubernetes allows no NUL in a label; one
// that has it is left out.
func NewLabels(labels map[string]string) Labels {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if value := labels[key]; !strings.Contains(key+value, "\x00") {
			parts = append(parts, key, "\x00", value, "\x00")
		}
	}
	return Labels(strings.Join(parts, ""))
}

// All yields keys with their values.
func (l Labels) All() iter.Seq2[string, string] {
	return func(yield func(key, value string) bool) {
		for rest := string(l); rest != ""; {
			var key, value string
			key, rest, _ = strings.Cut(rest, "\x00")
			value, rest, _ = strings.Cut(rest, "\x00")
			if !yield(key, value) {
				return
			}
		}
	}
}

// Get returns the value of the label with that key.
func (l Labels) Get(key string) (value string, ok bool) {
	for has, value := range l.All() {
		if has == key {
			return value, true
		}
	}
	return "", false
}

// MarshalJSON writes an object.
func (l Labels) MarshalJSON() ([]byte, error) { return json.Marshal(maps.Collect(l.All())) }

// UnmarshalJSON reads an object.
func (l *Labels) UnmarshalJSON(data []byte) error {
	var labels map[string]string
	err := json.Unmarshal(data, &labels)
	*l = NewLabels(labels)
	return err
}

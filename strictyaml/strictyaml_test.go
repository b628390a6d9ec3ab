// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"strings"
	"testing"
)

type entry struct {
	Name string `json:"name"`
	Port uint16 `json:"port"`
}

func TestOneDocumentIsRead(t *testing.T) {
	for _, text := range []string{"- {name: a, port: 1}", "---\n- {name: a, port: 1}\n", "# first\n---\n- name: a\n  port: 1\n...\n# last\n", `[{"name": "a", "port": 1}]`} {
		var got []entry
		if err := Unmarshal([]byte(text), &got); err != nil || len(got) != 1 || got[0] != (entry{"a", 1}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	var got []entry
	if err := Unmarshal(nil, &got); err != nil || got != nil {
		t.Errorf("an empty text: %+v, %v", got, err)
	}
}

// What a reader would drop without a word is an error.
func TestNothingIsDroppedWithoutAWord(t *testing.T) {
	for text, says := range map[string]string{
		"- {name: a}\n---\n- {name: b}\n":     "second document",
		"- {name: a}\n---\n":                  "second document",
		"- {name: a}\n...\n- {name: b}\n":     "second document",
		"- {name: a}\n---\n}":                 "second document",
		"# none\n---\n---\n- {name: b}\n":     "second document",
		"- {name: a, NAME: b}":                `unknown field`,
		"- {Name: a}":                         `unknown field`,
		"- {name: a, name: b}":                "already",
		"- {name: a, host: b}":                `unknown field`,
		"- {name: a, port: 70000}":            "port",
		"- {name: a}\n- {name: b\n- {name: c": "yaml",
	} {
		var got []entry
		if err := Unmarshal([]byte(text), &got); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %+v, %v; want %q", text, got, err, says)
		}
	}
}

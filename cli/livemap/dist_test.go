// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// It needs no npm: make map writes the hash of its sources into what it builds.
func TestTheScriptIsBuiltFromTheseSources(t *testing.T) {
	names, err := filepath.Glob("web/src/*")
	if err != nil || len(names) == 0 {
		t.Fatalf("%v, %v", names, err)
	}
	names = append([]string{"web/build.mjs", "web/package-lock.json", "web/package.json"}, names...)
	slices.Sort(names)
	hash := sha256.New()
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(hash, "%s\x00%s\x00", strings.TrimPrefix(filepath.ToSlash(name), "web/"), text)
	}
	script, err := os.ReadFile("web/dist/map.js")
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(script), "\n")
	if want := fmt.Sprintf("sha256 %x */", hash.Sum(nil)); !strings.HasSuffix(head, want) {
		t.Errorf("web/dist is of other sources: run make map\n got %s\nwant %s", head, want)
	}
	for _, name := range []string{"index.html", "login.html", "map.css", "login.css", "icon.svg"} {
		source, err := os.ReadFile("web/src/" + name)
		built, berr := os.ReadFile("web/dist/" + name)
		if err != nil || berr != nil || string(source) != string(built) {
			t.Errorf("web/dist/%s is not that of web/src: run make map", name)
		}
	}
}

var address = regexp.MustCompile(`(?:https?:)?//[a-z0-9-]+\.[a-z0-9.-]+`)

// Pages and styles name nothing that is elsewhere; the script must not load it, by the
// content policy, and is not searched: licences and names of XML are addresses, too.
func TestThePageLoadsNothingFromElsewhere(t *testing.T) {
	for _, name := range []string{"index.html", "login.html", "map.css", "login.css"} {
		text, err := os.ReadFile("web/dist/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if found := address.FindString(string(text)); found != "" {
			t.Errorf("%s names %s", name, found)
		}
		if strings.HasSuffix(name, ".html") && (strings.Contains(string(text), "<style") || strings.Contains(string(text), " style=") || strings.Contains(string(text), "<script>")) {
			t.Errorf("%s has a style or a script in it, which the content policy refuses", name)
		}
	}
}

var wordOfTable = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| `[A-Z_-]+` \\|")

func TestEveryWordOfTheFailureTableIsExplained(t *testing.T) {
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]bool{}
	for _, m := range wordOfTable.FindAllStringSubmatch(string(text), -1) {
		table[m[1]] = true
		if _, known := words[m[1]]; !known && m[1] != "ok" {
			t.Errorf("the map does not explain %s", m[1])
		}
	}
	for word, w := range words {
		if !table[word] {
			t.Errorf("ARCHITECTURE.md has no word %s", word)
		}
		path, anchor, _ := strings.Cut(w.Doc, "#")
		doc, err := os.ReadFile("../../" + path)
		if err != nil {
			t.Errorf("%s: %v", word, err)
		}
		if anchor != "" && !regexp.MustCompile(`(?im)^#+ `+strings.ReplaceAll(regexp.QuoteMeta(anchor), "-", "[ -]")+`$`).MatchString(strings.ReplaceAll(string(doc), ",", "")) {
			t.Errorf("%s: %s has no heading %s", word, path, anchor)
		}
	}
}

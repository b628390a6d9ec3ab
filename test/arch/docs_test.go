// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// docs are the Markdown files by their path from the root, with their text.
func docs(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "node_modules" {
			return fs.SkipDir
		}
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(root, path)
		files[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A diff of a long line says little. Tables and code cannot be wrapped, and bench/results
// is written by the benchmarks.
func TestProseWrapsAt100Columns(t *testing.T) {
	for name, text := range docs(t) {
		if strings.HasPrefix(name, "bench/results/") {
			continue
		}
		code := false
		for i, line := range strings.Split(text, "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				code = !code
			}
			if n := utf8.RuneCountInString(line); n > 100 && !code && !strings.HasPrefix(line, "|") {
				t.Errorf("%s:%d: %d columns, want at most 100", name, i+1, n)
			}
		}
	}
}

var helpFlag = regexp.MustCompile(`(?m)^  (-[a-z-]+)`)

// The golden help of a program is what it prints: its own tests see to that.
func TestEveryFlagStandsInTheDocs(t *testing.T) {
	running := docs(t)["docs/running.md"]
	for program, golden := range map[string]string{
		"ztunnel":               "ztunnel/testdata/usage.txt",
		"ztunnel uninstall":     "ztunnel/testdata/uninstall.txt",
		"culvert-identity":      "culvert-identity/testdata/usage.txt",
		"culvert-cni install":   "culvert-cni/testdata/install.txt",
		"culvert-cni uninstall": "culvert-cni/testdata/uninstall.txt",
	} {
		_, section, found := strings.Cut(running, "\n## "+program+":")
		section, _, _ = strings.Cut(section, "\n## ")
		if !found {
			t.Errorf("docs/running.md has no section on %s", program)
		}
		help, err := os.ReadFile(filepath.Join(root, "cmd", golden))
		if err != nil {
			t.Fatal(err)
		}
		flags := map[string]bool{}
		for _, match := range helpFlag.FindAllStringSubmatch(string(help), -1) {
			flags[match[1]] = true
			if !strings.Contains(section, "`"+match[1]+"`") {
				t.Errorf("docs/running.md does not explain %s %s", program, match[1])
			}
		}
		if len(flags) < 5 {
			t.Errorf("only %d flags found in the help of %s", len(flags), program)
		}
		for _, match := range regexp.MustCompile("`(-[a-z-]+)`").FindAllStringSubmatch(section, -1) {
			if !flags[match[1]] && match[1] != "-ca-server-name" {
				t.Errorf("docs/running.md explains %s %s, which does not exist", program, match[1])
			}
		}
	}
}

var family = regexp.MustCompile(`"((?:culvert|istio|workload_manager)_[a-z_]+)"`)

var named = regexp.MustCompile(`\b(?:culvert|istio|workload_manager)_[a-z_]+(?:_total|_seconds|_pods|_count|_open|_build)\b`)

func TestEveryMetricStandsInTheDocs(t *testing.T) {
	text := docs(t)["docs/observability.md"]
	exported := map[string]bool{}
	for _, dir := range []string{"ztunnel/metrics", "identity/server", "cni/install"} {
		sources, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, source := range sources {
			if strings.HasSuffix(source, "_test.go") {
				continue
			}
			code, err := os.ReadFile(source)
			if err != nil {
				t.Fatal(err)
			}
			for _, match := range family.FindAllStringSubmatch(string(code), -1) {
				exported[match[1]] = true
				if !strings.Contains(text, "`"+match[1]+"`") {
					t.Errorf("docs/observability.md does not explain %s", match[1])
				}
			}
		}
	}
	if len(exported) < 15 {
		t.Errorf("only %d families found", len(exported))
	}
	for name, text := range docs(t) {
		for _, match := range named.FindAllString(text, -1) {
			if !exported[match] {
				t.Errorf("%s names the metric %s, which does not exist", name, match)
			}
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`)

func TestLinksInDocsLeadSomewhere(t *testing.T) {
	all := docs(t)
	for name, text := range all {
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target, anchor := match[1], strings.TrimPrefix(match[2], "#")
			if strings.Contains(target, "://") {
				continue
			}
			path := filepath.Join(filepath.Dir(name), target)
			if target == "" {
				path = name
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s links to %s: %v", name, target, err)
				continue
			}
			if anchor != "" && !hasHeading(all[path], anchor) {
				t.Errorf("%s links to %s#%s, which has no such heading", name, path, anchor)
			}
		}
	}
}

var punctuation = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// hasHeading compares as forges make anchors of headings.
func hasHeading(text, anchor string) bool {
	for line := range strings.Lines(text) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			plain := punctuation.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			if strings.ReplaceAll(plain, " ", "-") == anchor {
				return true
			}
		}
	}
	return false
}

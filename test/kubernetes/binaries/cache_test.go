// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestBuildsThatNobodyUsesAreRemoved(t *testing.T) {
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		ages map[string]time.Duration // of all builds, by name, since their last use
		held string
		want []string
	}{
		"three are kept":         {ages: map[string]time.Duration{"now": 0, "a": day, "b": 2 * day}, want: []string{"a", "b", "now"}},
		"the oldest of four":     {ages: map[string]time.Duration{"now": 0, "a": day, "b": 2 * day, "c": 3 * day}, want: []string{"a", "b", "now"}},
		"unused for 15 days":     {ages: map[string]time.Duration{"now": 0, "a": 15 * day}, want: []string{"now"}},
		"what is used is young":  {ages: map[string]time.Duration{"now": 15 * day}, want: []string{"now"}},
		"a cluster runs it":      {ages: map[string]time.Duration{"now": 0, "a": 15 * day}, held: "a", want: []string{"a", "now"}},
		"one that was given up":  {ages: map[string]time.Duration{"now": 0, "a.new": 15 * day}, want: []string{"now"}},
		"one that is being made": {ages: map[string]time.Duration{"now": 0, "a.new": day}, want: []string{"a.new", "now"}},
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			for build, age := range c.ages {
				makeBuild(t, filepath.Join(cache, build), age)
			}
			if c.held != "" {
				holdBuild(t, filepath.Join(cache, c.held))
			}
			if err := used(filepath.Join(cache, "now")); err != nil {
				t.Fatal(err)
			}
			if got := builds(t, cache); !slices.Equal(got, c.want) {
				t.Errorf("the cache has %q, want %q", got, c.want)
			}
		})
	}
}

// makeBuild makes a build that was last used as long ago as age.
func makeBuild(t *testing.T, dir string, age time.Duration) {
	t.Helper()
	lock := dir + lockSuffix
	if filepath.Ext(dir) == unfinishedSuffix {
		lock = dir[:len(dir)-len(unfinishedSuffix)] + lockSuffix
	}
	last := time.Now().Add(-age)
	err1, err2 := os.Mkdir(dir, 0o755), os.WriteFile(lock, nil, 0o644)
	if err := os.Chtimes(lock, last, last); err1 != nil || err2 != nil || err != nil {
		t.Fatal(err1, err2, err)
	}
}

// holdBuild locks a build's directory as a cluster does that runs it.
func holdBuild(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
}

// builds are the names of a cache's directories.
func builds(t *testing.T, cache string) []string {
	t.Helper()
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names
}

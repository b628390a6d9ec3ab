// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
)

// What a primary CNI writes while its config is being edited must end there, by
// whichever way it writes. In a tmpfs the moment between a look and a rename is a
// good part of each edit: without the exchange, this fails at once.
func TestNothingThatOthersWriteMeanwhileIsLost(t *testing.T) {
	version := func(i int) string { return strings.Replace(flannel, "cbr0", fmt.Sprint("cbr", i), 1) }
	for name, write := range map[string]func(n *node, text string){
		"renamed over":     func(n *node, text string) { n.writes("10-flannel.conflist", text) },
		"written in place": func(n *node, text string) { put(n.t, filepath.Join(n.conf, "10-flannel.conflist"), text) },
	} {
		n := newNode(t)
		mount(t, n.conf, "")
		write(n, version(0))
		in := n.installer()
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
					in.held = false // no fight: as often as goes
					in.round(in.due)
				}
			}
		}()
		for i := range 300 {
			write(n, version(-i))
			for at := time.Now().Add(rand.N(300 * time.Microsecond)); time.Now().Before(at); {
			}
			write(n, version(i)) // in the midst of the edit of the one before
			want := strings.Replace(version(i), `{"type":"portmap"}`, `{"type":"portmap"},`+entryText, 1)
			await(t, name, func() string { return cmp.Diff(want, contents(t, n.conf)["10-flannel.conflist"]) })
		}
		close(stop)
		<-done
	}
}

func TestASwapGivesBackWhatItDidNotExpect(t *testing.T) {
	dir := t.TempDir()
	tmp, path := filepath.Join(dir, "tmp"), filepath.Join(dir, "path")
	for _, tc := range []struct {
		now, path, tmp string
		err            error
	}{
		{"read", "ours", "read", nil},
		{"theirs", "theirs", "ours", errChanged},
	} {
		put(t, tmp, "ours")
		put(t, path, tc.now)
		if err := swap(tmp, path, []byte("read"), []byte("ours")); !errors.Is(err, tc.err) {
			t.Errorf("%s: %v", tc.now, err)
		}
		if diff := cmp.Diff(map[string]string{"path": tc.path, "tmp": tc.tmp}, contents(t, dir)); diff != "" {
			t.Errorf("%s: %s", tc.now, diff)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := swap(tmp, path, []byte("read"), []byte("ours")); !errors.Is(err, errChanged) {
		t.Errorf("removed meanwhile: %v", err)
	}
	if got := names(contents(t, dir)); len(got) != 1 || got[0] != "tmp" {
		t.Errorf("it came back: %q", got)
	}
}

// Where a file system cannot exchange.
func TestARenameLooksFirst(t *testing.T) {
	dir := t.TempDir()
	tmp, path := filepath.Join(dir, "tmp"), filepath.Join(dir, "path")
	put(t, tmp, "ours")
	put(t, path, "theirs")
	if err := compareAndRename(tmp, path, []byte("read")); !errors.Is(err, errChanged) {
		t.Errorf("%v", err)
	}
	if err := compareAndRename(tmp, path, []byte("theirs")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]string{"path": "ours", "tmp": "theirs"}, contents(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// Container runtimes watch the directory, and read a config anew when they hear
// of it.
func TestAnExchangeIsSeenByWhoeverWatches(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "10-flannel.conflist")
	put(t, path, flannel)
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	if err := watcher.Add(dir); err != nil {
		t.Fatal(err)
	}
	if err := replace(path, []byte(flannel), []byte(calico)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.After(10 * time.Second); ; {
		select {
		case e := <-watcher.Events:
			if e.Name == path && e.Has(fsnotify.Create) {
				return
			}
		case <-deadline:
			t.Fatal("nothing was seen")
		}
	}
}

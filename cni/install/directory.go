// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// errNoNetwork says that no primary CNI has put its config into the directory.
var errNoNetwork = errors.New("no CNI config yet: a primary CNI has to come first")

// oursSuffix ends the names of files that are ours: lists made of a single
// config. It sorts before the config, since '-' sorts before '.', so that
// runtimes take the list.
const oursSuffix = "-culvert.conflist"

// What a single config is called. Container runtimes take .json for one too.
var singles = []string{".conf", ".json"}

// change is what has to be written so that pods of the node meet the plugin.
type change struct {
	file  string // in the directory
	read  []byte // what it holds; nil: it is ours, to be made or made anew
	data  []byte // what it should hold
	like  string // the file whose mode and owner it gets, if it is ours
	exist bool   // it is there already, as it should be
	stale bool   // it is ours, has the entry, and only has to follow its config
}

// write makes the change, or returns errChanged if somebody was faster.
func (c change) write(dir string) error {
	if c.read != nil {
		return replace(filepath.Join(dir, c.file), c.read, c.data)
	}
	a, err := accessOf(filepath.Join(dir, c.like))
	if err != nil {
		return err
	}
	return create(filepath.Join(dir, c.file), bytes.NewReader(c.data), a)
}

// network finds the config that container runtimes use for the node's pods, the
// first by name, and says how it is to look.
func (e entry) network(dir string) (change, error) {
	files, err := configs(dir)
	if err != nil {
		return change{}, err
	}
	if len(files) == 0 {
		return change{}, errNoNetwork
	}
	first := files[0]
	if source, ours := sourceOf(files, first); ours {
		return e.ours(dir, source)
	}
	if strings.HasSuffix(first, ".conflist") {
		return e.inPlace(dir, first)
	}
	return e.single(dir, first)
}

// inPlace chains the plugin in a list of plugins, whoever wrote it.
func (e entry) inPlace(dir, file string) (change, error) {
	data, err := readConfig(dir, file)
	if err != nil {
		return change{}, err
	}
	want, err := e.chain(data, whole(data))
	if err != nil {
		return change{}, fmt.Errorf("%s: %w", filepath.Join(dir, file), err)
	}
	return change{file: file, read: data, data: want, exist: bytes.Equal(data, want)}, nil
}

// single is for a first config that is no list. It is left alone: its owner may
// wait for it (the readiness of OVN-Kubernetes), rewrite or remove it. A list of
// ours that means the same stands before it. Multus alone gets none, since it
// would take the list for a config to delegate to, and so call itself.
func (e entry) single(dir, file string) (change, error) {
	data, err := readConfig(dir, file)
	if err != nil {
		return change{}, err
	}
	kind, err := text(data, whole(data), "type")
	switch {
	case err != nil || kind == "":
		return change{}, fmt.Errorf("%s: no type: a list of plugins is called .conflist", filepath.Join(dir, file))
	case kind == "multus" || kind == "multus-shim":
		return e.delegate(dir, file, data)
	}
	return e.ours(dir, file)
}

// ours is the list made of the single config source. What others add to it stays
// there until source changes.
func (e entry) ours(dir, source string) (change, error) {
	single, err := readConfig(dir, source)
	if err != nil {
		return change{}, err
	}
	file := strings.TrimSuffix(source, filepath.Ext(source)) + oursSuffix
	stale := false
	if data, err := readConfig(dir, file); err == nil {
		stale = e.names(data)
		if plugins, err := e.list(data, whole(data)); err == nil && same(plugins[0].of(data), single) {
			return e.inPlace(dir, file)
		}
	}
	data, err := e.listOf(single, whole(single))
	if err != nil {
		return change{}, fmt.Errorf("%s: %w", filepath.Join(dir, source), err)
	}
	return change{file: file, data: data, like: source, stale: stale}, nil
}

// delegate chains the plugin where Multus finds the pod's default network: in
// its own config, or in a list of this directory that its config names.
func (e entry) delegate(dir, file string, data []byte) (change, error) {
	path := filepath.Join(dir, file)
	if all, found, _ := lookup(data, whole(data), "delegates"); found {
		delegates, err := items(data, all)
		if err != nil || len(delegates) == 0 {
			return change{}, fmt.Errorf("%s: delegates: want an array with the pods' default network in it", path)
		}
		want, err := e.inDelegate(data, delegates[0])
		if err != nil {
			return change{}, fmt.Errorf("%s: delegates[0]: %w", path, err)
		}
		return change{file: file, read: data, data: want, exist: bytes.Equal(data, want)}, nil
	}
	name, err := text(data, whole(data), "clusterNetwork")
	if err != nil || name == "" {
		return change{}, fmt.Errorf("%s: neither delegates nor clusterNetwork: where is the pods' default network?", path)
	}
	files, err := configs(dir)
	if err != nil {
		return change{}, err
	}
	for _, list := range files {
		if filepath.Ext(list) == ".conflist" && (list == filepath.Base(name) || networkOf(dir, list) == name) {
			return e.inPlace(dir, list)
		}
	}
	return change{}, fmt.Errorf("%s: clusterNetwork: %s is no .conflist of this directory: culvert-cni cannot be chained there", path, name)
}

// networkOf is the name of the network that file describes, if it can be read.
func networkOf(dir, file string) string {
	data, err := readConfig(dir, file)
	if err != nil {
		return ""
	}
	name, _ := text(data, whole(data), "name")
	return name
}

func (e entry) inDelegate(data []byte, s span) ([]byte, error) {
	if _, list, _ := lookup(data, s, "plugins"); list {
		return e.chain(data, s)
	}
	list, err := e.listOf(data, s)
	if err != nil {
		return nil, err
	}
	return apply(data, edit{s, bytes.TrimSpace(list)}), nil
}

// configs lists the files of dir that container runtimes look at, in their order.
func configs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".conflist" || slices.Contains(singles, ext)) {
			files = append(files, e.Name())
		}
	}
	return files, nil // sorted by name
}

// sourceOf says whether file is a list of ours, and of which config of files; of
// none if that is gone.
func sourceOf(files []string, file string) (source string, ours bool) {
	stem, ours := strings.CutSuffix(file, oursSuffix)
	for _, ext := range singles {
		if ours && slices.Contains(files, stem+ext) {
			return stem + ext, true
		}
	}
	return "", ours
}

// orphans lists the lists of ours whose config is gone: its owner took it away,
// and wants no such network.
func orphans(dir string) ([]string, error) {
	files, err := configs(dir)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(files, func(file string) bool {
		source, ours := sourceOf(files, file)
		return !ours || source != ""
	}), nil
}

// readConfig reads a config as a whole, or says what is wrong with the file.
func readConfig(dir, file string) ([]byte, error) {
	path := filepath.Join(dir, file)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if to, linkErr := os.Readlink(path); linkErr == nil {
			return nil, fmt.Errorf("%s is a link to %s, which is not there, or not mounted where culvert-cni install runs", path, to)
		}
	}
	if err != nil {
		return nil, err
	}
	var any json.RawMessage
	if err := json.Unmarshal(data, &any); err != nil {
		return nil, fmt.Errorf("%s is half written or no JSON: %v", path, err)
	}
	return data, nil
}

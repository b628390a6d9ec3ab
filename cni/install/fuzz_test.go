// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
)

// FuzzChain compares with libcni: what that takes for a list of plugins, it must
// take with the plugin in it, and find unchanged but for that.
func FuzzChain(f *testing.F) {
	for _, text := range []string{flannel, cilium, "{\n\t\"name\":\"n\",\n\t\"cniVersion\":\"1.0.0\",\"plugins\":[ {\"type\":\"a\"} ]}",
		`{"name":"n","cniVersion":"1.0.0","plugins":[],"plugins":[{"type":"culvert-cni"},{"type":"a","type":"b"}]}`,
		`{"name":"n","cniVersions":["1.0.0","7"],"plugins":[{"type":"multus","delegates":[{"plugins":[{"type":"culvert-cni"},{"type":"a"}]}]}]}`,
	} {
		f.Add([]byte(text))
	}
	e := entry{"culvert-cni", []byte(entryText), versions}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) {
			return // readConfig refuses it
		}
		chained, err := e.chain(data, whole(data))
		if err != nil {
			return
		}
		before, err := libcni.NetworkConfFromBytes(data)
		if err != nil {
			return // for a reason that is none of the plugin's
		}
		after, err := libcni.NetworkConfFromBytes(chained)
		if err != nil {
			t.Fatalf("libcni refuses it with the plugin: %v\n%s", err, chained)
		}
		if diff := cmp.Diff(append(others(before), "culvert-cni"), append(others(after), after.Plugins[len(after.Plugins)-1].Network.Type)); diff != "" {
			t.Fatal(diff)
		}
		if again, err := e.chain(chained, whole(chained)); err != nil || !bytes.Equal(again, chained) {
			t.Fatalf("a second time it changes: %s, %v", again, err)
		}
		without, err := e.unchain(chained)
		if err != nil || e.names(without) {
			t.Fatalf("it is still there: %s, %v", without, err)
		}
		if !e.names(data) && !bytes.Equal(without, data) {
			t.Fatalf("taken out, it is not as before: %s", without)
		}
	})
}

// others are the plugins of a list that are not ours, as JSON.
func others(list *libcni.NetworkConfigList) []string {
	var all []string
	for _, p := range list.Plugins {
		if p.Network.Type != "culvert-cni" {
			all = append(all, string(p.Bytes))
		}
	}
	return all
}

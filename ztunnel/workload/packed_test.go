// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var values = cmpopts.EquateComparable(netip.Addr{}, spiffeid.ID{})

// each calls f with a workload for each field of Workload, of which only that says
// something.
func each(t *testing.T, f func(field string, w Workload)) {
	something := Workload{
		UID: "u", Namespace: "shop", Name: "web", Node: "node-1", Created: time.Unix(100, 0).UTC(),
		ServiceAccount: "sa", ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/sa"),
		Addrs: []netip.Addr{addr("10.1.0.2"), addr("fd00::2")}, Labels: NewLabels(map[string]string{"app": "web", "": "", "tier": "front"}),
		Meshed: true, Undecided: true, HostNetwork: true, Static: true, Ready: true, Terminated: true, Unsteerable: "kata", Daemon: true, MayForward: true,
		Ports: []NamedPort{{"http", 80}}, HostPorts: []HostPort{{addr("192.168.0.1"), 80, 8080}}, Declared: []uint16{80}, ProbePorts: []uint16{81},
		ForeignProbes: []ForeignProbe{{"a", addr("10.1.0.3"), 82}}, TakenProbes: []TakenProbe{{83, "shop/other"}},
		Owner: "owner", CanonicalName: "name", CanonicalRevision: "v1",
	}
	all := reflect.ValueOf(something)
	for i := range all.NumField() {
		var w Workload
		reflect.ValueOf(&w).Elem().Field(i).Set(all.Field(i))
		if field := all.Type().Field(i).Name; reflect.ValueOf(w).IsZero() {
			t.Errorf("%s is not looked at", field)
		} else {
			f(field, w)
		}
	}
}

func TestAPackedWorkloadSaysWhatItDidAndNothingOfItsNeighbours(t *testing.T) {
	packer := NewPacker()
	none := packer.Pack(Workload{})
	each(t, func(field string, w Workload) {
		p, again := packer.Pack(w), packer.Pack(w)
		if diff := cmp.Diff(w, p.Workload(), values); diff != "" {
			t.Errorf("%s: %s", field, diff)
		}
		if p.Equal(none) || !p.Equal(again) || p.Shared != again.Shared {
			t.Errorf("%s: equal to nothing: %v; to itself: %v; shared: %v", field, p.Equal(none), p.Equal(again), p.Shared == again.Shared)
		}
	})
	if diff := cmp.Diff(Workload{}, none.Workload(), values); diff != "" {
		t.Errorf("one that says nothing: %s", diff)
	}
}

func TestPackedWorkloadsAreWrittenAndReadWithWhatTheyShareOnce(t *testing.T) {
	packer := NewPacker()
	var all Workloads
	each(t, func(_ string, w Workload) { all = append(all, packer.Pack(w), packer.Pack(w)) })
	data, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	var got Workloads
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all.Unpack(), got.Unpack(), values); diff != "" {
		t.Error(diff)
	}
	for i := 0; i < len(got); i += 2 {
		if got[i].Shared != got[i+1].Shared {
			t.Fatalf("%+v is there twice", got[i])
		}
	}
	for _, bad := range []string{`{"Pods": [{}]}`, `{"Shared": [null], "Pods": [{}]}`, `{"Shared": [{}], "Pods": [{"Shared": 1}]}`, `{"Shared": [{}], "Pods": [{"Shared": -1}]}`, `[]`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

func TestWhatNobodySharesAnyMoreIsForgotten(t *testing.T) {
	packer := NewPacker()
	var all []*Packed
	for i := range 100 {
		w := pod(fmt.Sprint("web-", i%10), fmt.Sprint(i))
		w.ProbePorts = []uint16{uint16(i % 5)}
		all = append(all, packer.Pack(w))
	}
	for i, p := range all {
		if i%2 == 0 {
			w := p.Workload()
			w.Ready = false
			if p = packer.Replace(p, w); p.Ready || p.Shared != all[i].Shared || unsafe.StringData(p.Name) != unsafe.StringData(all[i].Name) {
				t.Fatal("what did not change is not where it was")
			}
		}
		packer.Release(p)
	}
	if len(packer.shared) > 0 {
		t.Errorf("%d are left", len(packer.shared))
	}
}

// It stands beside what it takes in docs and comments.
func TestAPackedWorkloadHasTheSizeThatIsSaid(t *testing.T) {
	if size := unsafe.Sizeof(Packed{}); size != 96 {
		t.Errorf("Packed has %d bytes", size)
	}
	if size := unsafe.Sizeof(held{}); size != 8 {
		t.Errorf("held has %d bytes", size)
	}
}

func TestLabelsAreThoseThatTheyWereMadeOf(t *testing.T) {
	of := map[string]string{"app": "web", "b": "", "": "c", "app.kubernetes.io/name": "x"}
	labels := NewLabels(of)
	for key, value := range of {
		if got, ok := labels.Get(key); !ok || got != value {
			t.Errorf("%q is %q, %v", key, got, ok)
		}
	}
	for _, key := range []string{"web", "ap", "app\x00web", "x", "app\x00"} {
		if got, ok := labels.Get(key); ok {
			t.Errorf("%q is %q", key, got)
		}
	}
	data, err := json.Marshal(labels)
	if err != nil {
		t.Fatal(err)
	}
	var read Labels
	if err := json.Unmarshal(data, &read); err != nil || read != labels {
		t.Errorf("%q as %s is read as %q: %v", labels, data, read, err)
	}
	if forged := NewLabels(map[string]string{"a": "b\x00app\x00web", "c\x00d": "e"}); forged != "" {
		t.Errorf("a NUL makes labels of its own: %q", forged)
	}
}

func TestATableFindsWhatWasPutLastUnderAKey(t *testing.T) {
	keys := make([]string, 1000)
	places := newTable[string](len(keys))
	is := func(key string) func(int) bool { return func(number int) bool { return keys[number] == key } }
	for i := range keys {
		keys[i] = fmt.Sprint("key ", i/2)
		places.put(keys[i], i, is(keys[i]))
	}
	for i := 1; i < len(keys); i += 2 {
		if got, ok := places.get(keys[i], is(keys[i])); !ok || got != i {
			t.Errorf("%s: %d, %v", keys[i], got, ok)
		}
	}
	if got, ok := places.get("another", is("another")); ok {
		t.Errorf("a key that nobody put: %d", got)
	}
	if _, ok := (table[string]{}).get("any", is("any")); ok {
		t.Error("found in one that nobody made")
	}
}

// Whoever has a Packed may write to a copy while the Packer goes on; -race watches.
func TestACopyIsMadeWhileThePackerGoesOn(t *testing.T) {
	k := NewPacker()
	p := k.Pack(Workload{Namespace: "shop", Name: "web-1"})
	var packing sync.WaitGroup
	packing.Go(func() {
		for range 100 {
			k.Release(k.Pack(Workload{Namespace: "shop", Name: "web-2"}))
		}
	})
	for range 100 {
		if own := p.private(); own.Shared == p.Shared || !own.Equal(p) {
			t.Fatalf("the copy says %+v", own)
		}
	}
	packing.Wait()
}

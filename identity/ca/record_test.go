// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/x509"
	"reflect"
	"slices"
	"testing"
)

func TestARecordRemembersTheLatestDroppedRoots(t *testing.T) {
	var roots []*x509.Certificate
	for range maxDropped + 4 {
		certs, err := certificatesOf(made(t)[RootFile])
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, certs...)
	}
	var record Record
	for i := range roots {
		record = record.next(uint64(i+1), roots[i:i+1])
	}
	if len(record.Dropped) != maxDropped || slices.Contains(record.Dropped, Fingerprint(roots[0])) || !slices.Contains(record.Dropped, Fingerprint(roots[len(roots)-2])) {
		t.Errorf("%d dropped", len(record.Dropped))
	}
	// One that comes back is dropped no longer.
	back := record.next(99, []*x509.Certificate{roots[len(roots)-1], roots[len(roots)-2]})
	if slices.Contains(back.Dropped, Fingerprint(roots[len(roots)-2])) || len(back.Roots) != 2 {
		t.Errorf("%+v", back)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(Record{Generation: 7, Roots: []string{"a", "b"}, Dropped: []string{"c"}}.Encode())
	f.Add([]byte(`{"generation": 1e30}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRecord(text)
		if err != nil {
			return
		}
		if r.Generation > maxGeneration {
			t.Errorf("generation %d", r.Generation)
		}
		again, err := ParseRecord(r.Encode())
		if err != nil || again.Generation != r.Generation || !reflect.DeepEqual(again.Roots, r.Roots) {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}

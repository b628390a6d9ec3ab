// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The test's own program stands for one of Culvert's.
func TestWhatAProgramIsMadeOfIsSaid(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := describe(program, product{program: "ztunnel", licenses: "Apache-2.0"})
	if err != nil {
		t.Fatal(err)
	}
	var doc sbom
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	if p := doc.Packages[0]; p.Name != "ztunnel" || p.LicenseDeclared != "Apache-2.0" || len(p.Checksums) != 1 {
		t.Errorf("the program is %+v", p)
	}
	if !slices.ContainsFunc(doc.Packages, func(p sbomPackage) bool {
		return p.Name == "stdlib" && strings.HasPrefix(p.ExternalRefs[0].Locator, "pkg:golang/stdlib@1.")
	}) {
		t.Errorf("no standard library in %+v", doc.Packages)
	}
	id := regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`)
	described := map[string]bool{doc.SPDXID: true}
	for _, p := range doc.Packages {
		if !id.MatchString(p.SPDXID) || described[p.SPDXID] {
			t.Errorf("identifier %q of %s: malformed, or another's", p.SPDXID, p.Name)
		}
		described[p.SPDXID] = true
	}
	if len(doc.Relationships) != len(doc.Packages) {
		t.Errorf("%d relationships of %d packages", len(doc.Relationships), len(doc.Packages))
	}
	for _, r := range doc.Relationships {
		if !described[r.From] || !described[r.To] {
			t.Errorf("%s %s %s: one is not described", r.From, r.Type, r.To)
		}
	}
}

func TestOnlyAProgramOfGoTellsWhatItIsMadeOf(t *testing.T) {
	if _, err := describe("/bin/true", product{program: "true"}); err == nil || !strings.Contains(err.Error(), "what /bin/true is made of") {
		t.Errorf("%v", err)
	}
}

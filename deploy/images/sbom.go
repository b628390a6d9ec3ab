// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
)

// What a program is made of, as SPDX 2.3 in JSON (https://spdx.github.io/spdx-spec/v2.3):
// the program, Go's standard library, and each module that was linked.
type sbom struct {
	SPDXVersion       string             `json:"spdxVersion"`
	DataLicense       string             `json:"dataLicense"`
	SPDXID            string             `json:"SPDXID"`
	Name              string             `json:"name"`
	DocumentNamespace string             `json:"documentNamespace"`
	CreationInfo      sbomCreation       `json:"creationInfo"`
	Packages          []sbomPackage      `json:"packages"`
	Relationships     []sbomRelationship `json:"relationships"`
}

type sbomCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type sbomPackage struct {
	SPDXID           string         `json:"SPDXID"`
	Name             string         `json:"name"`
	VersionInfo      string         `json:"versionInfo"`
	DownloadLocation string         `json:"downloadLocation"`
	FilesAnalyzed    bool           `json:"filesAnalyzed"`
	LicenseConcluded string         `json:"licenseConcluded"`
	LicenseDeclared  string         `json:"licenseDeclared"`
	CopyrightText    string         `json:"copyrightText"`
	PrimaryPurpose   string         `json:"primaryPackagePurpose"`
	Checksums        []sbomChecksum `json:"checksums,omitempty"`
	ExternalRefs     []sbomRef      `json:"externalRefs"`
}

type sbomChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type sbomRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type sbomRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const unknown = "NOASSERTION"

// describe returns what the program at path is made of, by what Go wrote into it.
// The same program always gives the same text.
func describe(path string, p product) ([]byte, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("what %s is made of: %w", path, err)
	}
	sum := sha256.Sum256(program)
	digest := hex.EncodeToString(sum[:])
	main := modulePackage(info.Main)
	main.SPDXID, main.Name, main.PrimaryPurpose = "SPDXRef-Program", p.program, "APPLICATION"
	main.LicenseConcluded, main.LicenseDeclared = p.licenses, p.licenses
	main.Checksums = []sbomChecksum{{"SHA256", digest}}
	parts := []sbomPackage{modulePackage(debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")})}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		parts = append(parts, modulePackage(*module))
	}
	slices.SortFunc(parts, func(a, b sbomPackage) int { return cmp.Compare(a.Name, b.Name) })
	for i := range parts {
		parts[i].SPDXID = fmt.Sprintf("SPDXRef-Module-%d", i+1)
	}
	doc := sbom{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT",
		Name:              p.program,
		DocumentNamespace: "https://" + info.Main.Path + "/sbom/" + p.program + "-" + digest,
		// A time is required, and any but a fixed one would make each build differ.
		CreationInfo:  sbomCreation{"1970-01-01T00:00:00Z", []string{"Tool: culvert-deploy-images"}},
		Packages:      append([]sbomPackage{main}, parts...),
		Relationships: []sbomRelationship{{"SPDXRef-DOCUMENT", "DESCRIBES", main.SPDXID}},
	}
	for _, part := range parts {
		doc.Relationships = append(doc.Relationships, sbomRelationship{main.SPDXID, "CONTAINS", part.SPDXID})
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	return append(text, '\n'), err
}

// modulePackage is a module of Go as a package. What licence it has, its build does
// not tell.
func modulePackage(m debug.Module) sbomPackage {
	return sbomPackage{
		Name: m.Path, VersionInfo: m.Version, DownloadLocation: unknown,
		LicenseConcluded: unknown, LicenseDeclared: unknown, CopyrightText: unknown, PrimaryPurpose: "LIBRARY",
		ExternalRefs: []sbomRef{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + m.Path + "@" + url.QueryEscape(m.Version)}},
	}
}

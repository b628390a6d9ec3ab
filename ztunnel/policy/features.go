// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Features are what this version does with policies, for whoever has to know of each
// node before a policy may rely on it. A version that does not say so does none of it.
var Features = []string{FeatureAuthorization, FeatureDryRun, "NetworkPolicy"}

// Features by which the status of a policy names nodes.
const (
	FeatureAuthorization = "AuthorizationPolicy" // they are evaluated; before, they refused everybody
	FeatureDryRun        = "dry-run"             // those that are a dry run are asked, and refuse nobody
)

// Claim is what one ztunnel says that it can do.
type Claim struct {
	Features []string
	Began    time.Time // when it started; what stands there from before is of another one
}

// String is "feature,feature 2026-01-02T03:04:05Z".
func (c Claim) String() string {
	return strings.Join(c.Features, ",") + " " + c.Began.UTC().Format(time.RFC3339)
}

// ParseClaim reads what String writes.
func ParseClaim(text string) (Claim, error) {
	features, at, _ := strings.Cut(text, " ")
	began, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return Claim{}, fmt.Errorf("claim %q: not features and a time: %v", text, err)
	}
	return Claim{strings.Split(features, ","), began}, nil
}

// Has reports whether it names a feature.
func (c Claim) Has(feature string) bool { return slices.Contains(c.Features, feature) }

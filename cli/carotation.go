// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
)

// rekeyShown is how far a re-key is, for programs.
type rekeyShown struct {
	Where       string       `json:"where,omitempty"`
	State       rekey.State  `json:"state"`
	Since       time.Time    `json:"since,omitzero"`
	Paused      bool         `json:"paused"`
	Back        bool         `json:"rolledBack"`
	Compromised bool         `json:"compromised"`
	Former      []string     `json:"former,omitempty"` // SHA-256 of roots
	Next        []string     `json:"next,omitempty"`
	Waits       []rekey.Wait `json:"waits"`
	Problem     string       `json:"problem,omitempty"` // why nobody steps, or says for whom is waited
	Last        *rekey.Ended `json:"last,omitempty"`
}

// rekeyNow is what the first replica says that answers; nil if none does.
func (c *command) rekeyNow(ctx context.Context) *rekey.Status {
	source, err := c.from.fleet()
	if err != nil {
		return nil
	}
	cas, err := fleet.CAs(ctx, source)
	if err != nil {
		return nil
	}
	for _, ca := range cas {
		if ca.State != nil && ca.State.Rekey != nil {
			return ca.State.Rekey
		}
	}
	return nil
}

// shownRekey is a plan with what a replica says of it.
func shownRekey(keep custody.Keep, plan rekey.Plan, said *rekey.Status) rekeyShown {
	shown := rekeyShown{
		Where: keep.String(), State: plan.State, Since: plan.Since, Paused: plan.Paused, Back: plan.Back, Compromised: plan.Compromised,
		Former: fingerprints(plan.Former.Roots()), Next: fingerprints(plan.Next.Roots()), Waits: []rekey.Wait{},
	}
	if plan.Last.Result != "" {
		shown.Last = &plan.Last
	}
	switch {
	case plan.State == rekey.Stable:
	case said == nil:
		shown.Problem = "no replica of the CA says for whom it waits: it does not answer, or is older"
	case said.State != plan.State:
		shown.Problem = "the CA has not looked yet"
	default:
		shown.Waits, shown.Problem = nonNil(said.Waits), said.Problem
	}
	return shown
}

// saidRekey is what a replica says of a re-key, or nil if none is under way.
func saidRekey(said *rekey.Status) *rekeyShown {
	if said == nil || said.State == rekey.Stable {
		return nil
	}
	return &rekeyShown{
		State: said.State, Since: said.Since, Paused: said.Paused, Back: said.Back, Compromised: said.Compromised,
		Waits: nonNil(said.Waits), Problem: said.Problem,
	}
}

// storedRekey is the re-key whose plan is among the CA's files, with what a replica says of
// it, or nil if none is under way.
func (c *command) storedRekey(ctx context.Context, keep custody.Keep, files ca.Files) *rekeyShown {
	plan, err := rekey.Of(files)
	if err != nil {
		return &rekeyShown{State: "unknown", Waits: []rekey.Wait{}, Problem: err.Error()}
	}
	if plan.State == rekey.Stable {
		return nil
	}
	return new(shownRekey(keep, plan, c.rekeyNow(ctx)))
}

// printRekey says which re-key is under way, and for whom it waits.
func (c *command) printRekey(shown *rekeyShown) {
	if shown == nil {
		return
	}
	for _, line := range shown.lines("re-key of the root") {
		fmt.Fprintln(c.Stdout, printable(line))
	}
}

func fingerprints(certs []*x509.Certificate) (all []string) {
	for _, cert := range certs {
		all = append(all, fingerprint(cert))
	}
	return all
}

func (c *command) showRekey(keep custody.Keep, plan rekey.Plan, said *rekey.Status, format string) error {
	shown := shownRekey(keep, plan, said)
	if format == "json" {
		return printJSON(c.Stdout, shown)
	}
	for _, line := range shown.lines(shown.Where) {
		fmt.Fprintln(c.Stdout, printable(line))
	}
	return nil
}

// lines is the same for people. The first begins with what.
func (s rekeyShown) lines(what string) []string {
	state := fmt.Sprintf("%s: %s", what, s.State)
	if s.State == rekey.Stable {
		if s.Last == nil {
			return []string{state + ": no re-key of the root is under way"}
		}
		return []string{fmt.Sprintf("%s: no re-key of the root is under way; the last one ended on %s: %s", state, stamp(s.Last.At), s.Last.Result)}
	}
	if !s.Since.IsZero() {
		state += " since " + stamp(s.Since)
	}
	for _, mark := range []struct {
		is   bool
		text string
	}{{s.Paused, "paused"}, {s.Back, "rolled back"}, {s.Compromised, "compromised: it waits for nobody for long"}} {
		if mark.is {
			state += ", " + mark.text
		}
	}
	lines := []string{state}
	if s.Problem != "" {
		lines = append(lines, "  "+s.Problem)
	}
	for _, w := range s.Waits {
		lines = append(lines, "  waits for "+w.String())
	}
	return lines
}

// followEvery is how often --wait looks.
const followEvery = time.Second

// followRekey says what happens until nothing is under way.
func (c *command) followRekey(cmd *cobra.Command, keep custody.Keep, format string) error {
	said := map[string]bool{} // lines of the state that it is in
	var state rekey.State
	work := c.working("re-keys the root", 0, 0)
	defer work.End()
	for {
		files, err := keep.Read(cmd.Context())
		if err != nil {
			return fmt.Errorf("%s: %w", keep, err)
		}
		plan, err := rekey.Of(files)
		if err != nil {
			return fmt.Errorf("%s: %w", keep, err)
		}
		if plan.State == rekey.Stable {
			work.End()
			return c.showRekey(keep, plan, nil, format)
		}
		if plan.State != state {
			state, said = plan.State, map[string]bool{}
			work.Part("state " + string(state))
		}
		if format != "json" {
			for _, line := range shownRekey(keep, plan, c.rekeyNow(cmd.Context())).lines(keep.String()) {
				if said[line] {
					continue
				}
				said[line] = true
				if err := work.Around(func() error { _, err := fmt.Fprintln(c.Stdout, printable(line)); return err }); err != nil {
					return err
				}
			}
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(followEvery):
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
)

// rotation is what ca rotate-root was asked for.
type rotation struct {
	status, pause, resume, abort, rollback bool

	from, offline        string
	rootLife, issuerLife lifetime
	kind                 string // of the next CA's keys; "" is the kind of the root that goes
	compromised          bool
	skipAfter            lifetime
	wait                 bool
	passphrase           string
	lock                 custody.Lock
	signers              signerFlags
}

func (c *command) caRotateRoot() *cobra.Command {
	r := rotation{rootLife: rootTTL, issuerLife: issuerTTL, skipAfter: lifetime(time.Minute)}
	cmd := &cobra.Command{
		Use:   "rotate-root",
		Short: "Replace the root by one of another key, while the mesh runs",
		Long: `rotate-root begins a re-key of the CA's root. It makes the next root and an issuer under it,
with keys of the same kind or of --key-kind, or takes those of --from, and stores them beside the
CA. Where keys of the CA are encrypted, --from is needed. Then culvert-identity goes from state to
state, each time when it is sure that nobody is hurt:

  prepare     the next CA is judged
  distribute  nodes get both roots; every node must have said that it goes by them
  activate    the next issuer signs; every replica must sign by it
  drain       nodes renew; nothing may rest on the former root any more
  drop        nodes get the next root alone
  stable      the re-key has ended; the former keys are forgotten

--status says for whom it waits. --pause keeps it in its state until --resume. --abort gives
the next root up before it signs; --rollback has the former issuer sign again, until drop.
Nothing is dropped because time passes, but with --compromised: for a root whose key may be
in other hands. Then no state before drop waits for longer than --skip-after for who is cut
off, who loses its connections until it has heard of the next root. For nodes that answer,
drain waits up to a minute longer: what is open between them lives on.

The CA must have been made by Culvert, or be in the same layout, where culvert-identity may
write. Where root.key is kept elsewhere, give --root-offline for that of the next root, too.`,
		Example: "  culvert ca rotate-root --wait\n  culvert ca rotate-root --from /root/next-ca\n  culvert ca rotate-root --status",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	flags := cmd.Flags()
	flags.BoolVar(&r.status, "status", false, "change nothing: show how far it is, and for whom it waits")
	flags.BoolVar(&r.pause, "pause", false, "take no step until --resume")
	flags.BoolVar(&r.resume, "resume", false, "end --pause")
	flags.BoolVar(&r.abort, "abort", false, "give the next root up, before it signs")
	flags.BoolVar(&r.rollback, "rollback", false, "have the former issuer sign again")
	flags.StringVar(&r.from, "from", "", "`directory` with the next CA, in any layout (default it is made)")
	flags.StringVar(&r.offline, "root-offline", "", "new `file` for the private key of the root that is made, encrypted")
	flags.Var(&r.rootLife, "root-ttl", "lifetime of the root that is made")
	flags.Var(&r.issuerLife, "issuer-ttl", "lifetime of the issuer that is made")
	flags.StringVar(&r.kind, "key-kind", "", "`kind` of the next CA's keys: p256, or mldsa65, which all nodes must know (default as now)")
	flags.BoolVar(&r.compromised, "compromised", false, "the root's key may be in other hands: wait for nobody who is cut off longer than --skip-after")
	flags.Var(&r.skipAfter, "skip-after", "`time` that --compromised waits in each state")
	flags.BoolVar(&r.wait, "wait", false, "say what happens until it has ended")
	lockFlags(flags, &r.lock)
	r.signers.define(cmd)
	caPassphraseFlag(cmd, &r.passphrase)
	cmd.MarkFlagsMutuallyExclusive("status", "pause", "resume", "abort", "rollback", "from", "key-kind")
	cmd.MarkFlagsMutuallyExclusive("from", "root-offline", "root-signer")
	cmd.MarkFlagsMutuallyExclusive("from", "issuer-signer")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		keep, files, err := c.kept(cmd.Context())
		if err != nil {
			return err
		}
		plan, err := rekey.Of(files)
		if err != nil {
			return fmt.Errorf("%s: %w", keep, err)
		}
		if !r.status {
			if plan, err = c.rotate(cmd, r, keep, files, plan); err != nil {
				return fmt.Errorf("%s: %w", keep, err)
			}
		}
		if r.wait {
			return c.followRekey(cmd, keep, out.value)
		}
		return c.showRekey(keep, plan, c.rekeyNow(cmd.Context()), out.value)
	}
	return cmd
}

// rotate stores what was asked for.
func (c *command) rotate(cmd *cobra.Command, r rotation, keep custody.Keep, files ca.Files, plan rekey.Plan) (rekey.Plan, error) {
	if cmd.Flags().Changed("skip-after") && !r.compromised {
		return plan, errors.New("--skip-after is for --compromised")
	}
	now := c.Now()
	var next rekey.Plan
	var err error
	switch {
	case r.pause:
		next, err = rekey.Pause(plan)
	case r.resume:
		next, err = rekey.Resume(plan)
	case r.abort:
		next, err = rekey.Abort(plan, now)
	case r.rollback:
		next, err = rekey.Rollback(plan, now)
	default:
		return c.beginRekey(cmd, r, keep, files, plan)
	}
	if err != nil {
		return plan, err
	}
	return next, keep.Replace(cmd.Context(), files, next.Files())
}

// beginRekey makes the next CA, or reads it, and stores the plan.
func (c *command) beginRekey(cmd *cobra.Command, r rotation, keep custody.Keep, files ca.Files, plan rekey.Plan) (rekey.Plan, error) {
	if plan.State != rekey.Stable {
		return plan, hint(fmt.Errorf("%w: a re-key is under way, in the state %s", rekey.ErrNotNow, plan.State), "see culvert ca rotate-root --status")
	}
	made, err := r.next(cmd, files)
	if err != nil {
		return plan, err
	}
	if r.offline != "" {
		if err := putAside(made, r.offline, r.lock); err != nil {
			return plan, err
		}
	}
	kit, err := rekey.KitOf(made)
	if err != nil {
		return plan, fmt.Errorf("the next CA: %w", err)
	}
	var broken *rekey.BreakGlass
	if r.compromised {
		broken = &rekey.BreakGlass{After: time.Duration(r.skipAfter)}
	}
	next, err := rekey.Begin(plan, files, kit, broken, c.Now())
	if err != nil {
		return plan, err
	}
	return next, keep.Replace(cmd.Context(), files, next.Files())
}

// keys is the kind that --key-kind names, or none.
func (r rotation) keys() (identity.KeyKind, error) {
	if r.kind == "" {
		return "", nil
	}
	kind, err := identity.ParseKeyKind(r.kind)
	if err != nil {
		return "", fmt.Errorf("--key-kind %s: %v", r.kind, err)
	}
	return kind, nil
}

// next is the CA that is to follow.
func (r rotation) next(cmd *cobra.Command, files ca.Files) (ca.Files, error) {
	if r.from == "" {
		if r.offline != "" {
			if err := r.lock.Check(); err != nil {
				return nil, err
			}
		}
		if r.issuerLife > r.rootLife {
			return nil, fmt.Errorf("--issuer-ttl %s is longer than --root-ttl %s: no issuer outlives its root", &r.issuerLife, &r.rootLife)
		}
		keys, err := r.keys()
		if err != nil {
			return nil, err
		}
		opts := ca.Options{RootTTL: time.Duration(r.rootLife), IssuerTTL: time.Duration(r.issuerLife), Keys: keys}
		if err := r.signers.ask(cmd.Context(), &opts); err != nil {
			return nil, err
		}
		made, err := ca.Successor(files, opts)
		if errors.Is(err, ca.ErrHeld) {
			return nil, hint(err, "give the next key's signer by --root-signer or --issuer-signer, or the next CA by --from")
		}
		if errors.Is(err, ca.ErrEncrypted) {
			return nil, hint(err, "make the next CA with encrypted keys, and give it by --from")
		}
		return made, err
	}
	found, err := custody.Directory(r.from).Read(cmd.Context())
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	own, err := ca.OwnLayout(found)
	if err != nil {
		return nil, fmt.Errorf("--from %s: %w", r.from, err)
	}
	for _, d := range ca.Lint(own, ca.Options{PassphraseFile: r.passphrase}) {
		if d.Severity == ca.Error {
			return nil, hint(fmt.Errorf("--from %s: %w", r.from, d), "culvert ca verify %s says all that is wrong with it", r.from)
		}
	}
	return own, nil
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
)

// mode is a way to run ztunnel other than the default.
type mode struct {
	name string
	args []string // flags
	tags string   // of the build
}

var modes = []mode{
	{name: "std", args: []string{"-tls-records=std"}},
	{name: "purego", tags: "purego"},
	{name: "tunnel", args: []string{"-same-node=tunnel"}},
}

// told is the mode in which stories are told. To tell all of them in another:
//
//	E2E_MODE=std go test ./test/e2e
var told mode

// chooseMode sets told as the environment says.
func chooseMode() error {
	name := os.Getenv("E2E_MODE")
	if name == "" {
		return nil
	}
	i := slices.IndexFunc(modes, func(m mode) bool { return m.name == name })
	if i < 0 {
		return fmt.Errorf("E2E_MODE=%s: there is no such mode", name)
	}
	told = modes[i]
	return nil
}

func (m mode) apply(opts lab.Options) lab.Options {
	opts.ZtunnelArgs = slices.Concat(m.args, opts.ZtunnelArgs)
	opts.ZtunnelTags = m.tags
	return opts
}

// smoke is what has to hold in every mode.
var smoke = []struct {
	name string
	tell func(*testing.T)
}{
	{"PodsOfTwoNodesTalkInMutualTLS", TestPodsOfTwoNodesTalkInMutualTLS},
	{"PodsOfOneNodeTalkWithTheSameProofs", TestPodsOfOneNodeTalkWithTheSameProofs},
	{"AServerMaySpeakFirst", TestAServerMaySpeakFirst},
	{"BytesOfAnySizeArriveBothWaysAtOnce", TestBytesOfAnySizeArriveBothWaysAtOnce},
	{"OneEndMayFinishLongBeforeTheOther", TestOneEndMayFinishLongBeforeTheOther},
	{"AResetIsNotTakenForAnEndOfData", TestAResetIsNotTakenForAnEndOfData},
	{"APortWithoutAServerIsRefusedAtOnce", TestAPortWithoutAServerIsRefusedAtOnce},
	{"ARefusedClientIsNotGreeted", TestARefusedClientIsNotGreeted},
	{"ADeletedPodsConnectionsEnd", TestADeletedPodsConnectionsEnd},
}

func TestTheSmokeStoriesHoldInEveryMode(t *testing.T) {
	if told.name != "" {
		return // all stories are told in that mode
	}
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			usual := shared
			told, shared = m, new(common)
			defer func() {
				if err := shared.close(); err != nil {
					t.Errorf("close the lab: %v", err)
				}
				told, shared = mode{}, usual
			}()
			for _, s := range smoke {
				t.Run(s.name, s.tell)
			}
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"os"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

func TestSelfTestPassesOnThisKernel(t *testing.T) {
	env.Need(t, env.BPF, env.Cgroup2, env.Netns)
	d, err := Load(Options{BPFFS: env.BPFFS(t), Cgroup: env.CgroupMount(t)})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer d.Close()
	defer d.Unpin()
	start := time.Now()
	if err := d.SelfTest(t.Context()); err != nil {
		t.Error(err)
	}
	t.Log(time.Since(start), d.Stats())
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/ztunnel"
)

// asWorkload is set in a process of a pod that asks the Workload API.
const asWorkload = "WORKLOAD_API_OF"

// beWorkload prints one line for each SVID that it gets, two at most, or why it gets none.
func beWorkload(path string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	address := workloadapi.WithAddr("unix://" + path)
	if _, err := workloadapi.FetchX509SVID(ctx, address); err != nil {
		fmt.Println(status.Code(err))
		return
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(address))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer source.Close()
	for n := range 2 {
		updated := source.Updated()
		own, err := source.GetX509SVID()
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(own.ID, own.Certificates[0].SerialNumber)
		if n == 1 {
			return
		}
		select {
		case <-updated:
		case <-ctx.Done():
			return
		}
	}
}

// A004-5, A004-6, F-18: a client of SPIFFE's in a pod gets the pod's identity, no other, and
// each that follows; who is of no pod of the mesh gets none. A004-13: a pod may have the socket
// by SPIFFE's CSI driver, which bind-mounts its directory.
func TestAPodAsksTheWorkloadAPIWhoItIs(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{}, "mesh")
	socket := filepath.Join(s.one.State, "api", "agent.sock")
	s.must(s.one.Ztunnel.Stop(s.ctx))
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{Args: []string{"-workload-api-socket", socket}}))
	web, db := s.pod(s.one, "web", nil), s.pod(s.one, "db", nil)
	outside := s.pod(s.one, "outside", func(p *lab.PodSpec) { p.Labels["culvert.dev/mesh"] = "disabled" })
	self, err := os.Executable()
	s.must(err)
	ask := func(p *lab.Pod, socket string) *lab.Process {
		process, err := p.Start("workload", "env", asWorkload+"="+socket, self)
		s.must(err)
		return process
	}
	said := func(p *lab.Process) []string {
		text, err := os.ReadFile(p.Log)
		s.must(err)
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	none := ask(outside, socket)
	asked := map[*lab.Pod]*lab.Process{web: ask(web, socket), db: ask(db, filepath.Join(bindMounted(t, filepath.Dir(socket)), "agent.sock"))}
	for p, process := range asked {
		s.eventually("the identity of "+p.Name, func() bool { return strings.HasPrefix(said(process)[0], p.SPIFFEID("cluster.local")+" ") })
	}
	s.eventually("renewed identities of both", func() bool { // one that came within five seconds is not renewed
		if _, err := ztunnel.Renew(s.ctx, s.one.State, nil); err != nil {
			t.Log(err)
		}
		return !asked[web].Running() && !asked[db].Running()
	})
	for p, process := range asked {
		own := p.SPIFFEID("cluster.local") + " "
		if got := said(process); len(got) != 2 || got[0] == got[1] || !strings.HasPrefix(got[0], own) || !strings.HasPrefix(got[1], own) {
			t.Errorf("%s: %q, want two SVIDs of %s", p.Name, got, own)
		}
	}
	<-none.Done()
	if got := said(none); got[0] != codes.PermissionDenied.String() {
		t.Errorf("a pod outside the mesh: %q", got)
	}
	if _, err := workloadapi.FetchX509SVID(s.ctx, workloadapi.WithAddr("unix://"+socket)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a process of the node: %v", err)
	}
}

// bindMounted has a directory in another place too, read-only, as the CSI driver of SPIFFE
// publishes a volume.
func bindMounted(t *testing.T, dir string) string {
	t.Helper()
	volume := t.TempDir()
	if err := unix.Mount(dir, volume, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(volume, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", volume, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return volume
}

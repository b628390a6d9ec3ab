// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/test/env"
)

// A node costs the CA a connection on which it is told of the next bundle. What a
// thousand of them take of its memory is bounded: a CA of 512 MiB serves four thousand.
func TestAStreamOfANodeTakesAHundredKilobytes(t *testing.T) {
	const count, most = 1000, 100 << 10
	if testing.Short() {
		t.Skip("measures memory, of which the race detector takes most")
	}
	dir := t.TempDir()
	addr, metrics := env.Address(t), env.Address(t)
	admin := env.Address(t)
	jwks, objects := filepath.Join(dir, "jwks.json"), filepath.Join(dir, "objects")
	signer := tokenSigner(t, jwks)
	if err := os.Mkdir(objects, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(objects, "shop.yaml"), shop)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "culvert-identity")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-dir", filepath.Join(dir, "ca"), "-workloads", objects, "-jwks", jwks,
		"-listen", addr, "-metrics-address", metrics, "-admin-address", admin, "-dns-name", "ca.test", "-log-level", "error")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	awaitReady(t, metrics)

	streams := func(from, to int) {
		t.Helper()
		var group errgroup.Group
		group.SetLimit(16)
		for i := from; i < to; i++ {
			token := tokenOf(t, signer, fmt.Sprintf("node-%d", i), nil)
			group.Go(func() error { return openStream(t, addr, token) })
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	streams(0, 50) // what is there once, is there now
	before := resident(t, cmd.Process.Pid)
	streams(50, 50+count)
	each := (resident(t, cmd.Process.Pid) - before) / count
	t.Logf("%d kB of resident memory before, and %d kB for each of %d streams", before>>10, each>>10, count)
	if each > most {
		t.Errorf("a stream takes %d bytes, want at most %d", each, most)
	}
}

// openStream has the CA send its bundle to a node, and leaves the stream open until the
// test ends.
func openStream(t *testing.T, addr, token string) error {
	conn, err := grpc.NewClient(addr, grpc.WithNoProxy(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		return err
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	stream, err := identityv1.NewCertificateServiceClient(conn).StreamBundle(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if err := stream.Send(&identityv1.BundleAck{}); err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

var vmRSS = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

// resident is how much memory a process has, in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	match := vmRSS.FindSubmatch(text)
	if match == nil {
		t.Fatalf("no VmRSS in %s", text)
	}
	kilobytes, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}

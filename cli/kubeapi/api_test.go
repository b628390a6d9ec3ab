// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

func TestARefusalIsToldInTheServersWords(t *testing.T) {
	k := &clitest.Kubernetes{Denied: map[string]bool{"list pods": true, "create secrets": true}}
	api, err := Open(k.Kubeconfig(t, t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Pods(t.Context(), "ns", "app=x"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "the user cannot list pods") {
		t.Errorf("pods: %v", err)
	}
	if _, err := api.ConfigMap(t.Context(), "ns", "x"); !apierrors.IsNotFound(err) {
		t.Errorf("an object that is not there: %v", err)
	}
	for name, want := range map[string]bool{"secrets": false, "services": true} {
		if may, err := api.MayCreate(t.Context(), Resource{Namespace: "ns", Name: name}); may != want || err != nil {
			t.Errorf("create %s: %v, %v", name, may, err)
		}
	}
}

// The end of a log is what a report is made for: it stays, whole lines of it, whatever came
// before.
func TestOfALongLogTheLastLinesStay(t *testing.T) {
	var log strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&log, "line %d\n", i)
	}
	for _, most := range []int{50, 9_000, 70_000, 200_000, 1 << 20} {
		end, err := tail(iotest.OneByteReader(strings.NewReader(log.String())), most)
		if most > 9_000 {
			end, err = tail(strings.NewReader(log.String()), most)
		}
		if err != nil || len(end) > most || !strings.HasSuffix(log.String(), string(end)) || !strings.HasPrefix(string(end), "line ") {
			t.Errorf("of %d bytes: %d, %v", most, len(end), err)
		}
		if want := min(most, log.Len()); len(end) < want-len("line 19999\n") {
			t.Errorf("of %d bytes only %d", want, len(end))
		}
	}
	if _, err := tail(iotest.ErrReader(io.ErrUnexpectedEOF), 9); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
}

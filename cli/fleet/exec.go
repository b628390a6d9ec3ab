// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	//lint:ignore SA1019 client-go's dialers have these types
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/remotecommand"
	streaming "k8s.io/streaming/pkg/httpstream"

	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

// Exec runs a command in a container, as kubectl exec does, and returns what it wrote to
// stdout. If it fails, the error is what it wrote to stderr.
func Exec(ctx context.Context, api *kubeapi.API, namespace, pod, container string, command []string) ([]byte, error) {
	to := api.URL(kubeapi.Path(namespace, "pods", pod) + "/exec")
	to.RawQuery = url.Values{"container": {container}, "command": command, "stdout": {"true"}, "stderr": {"true"}}.Encode()
	socket, err := remotecommand.NewWebSocketExecutor(api.Config, http.MethodGet, to.String())
	if err != nil {
		return nil, err
	}
	old, err := remotecommand.NewSPDYExecutor(api.Config, http.MethodPost, to)
	if err != nil {
		return nil, err
	}
	executor, err := remotecommand.NewFallbackExecutor(socket, old, func(err error) bool {
		return streaming.IsUpgradeFailure(err) || httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return nil, err
	}
	stdout, stderr := &bounded{most: maxAnswer}, &bounded{most: 64 << 10}
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: stdout, Stderr: stderr})
	switch {
	case err != nil && stderr.text.Len() > 0:
		return nil, errors.New(firstLine(stderr.text.Bytes()))
	case err != nil && ctx.Err() != nil:
		return nil, errors.New("exec: no answer in time")
	case err != nil:
		return nil, fmt.Errorf("exec: %v", err)
	}
	return stdout.text.Bytes(), nil
}

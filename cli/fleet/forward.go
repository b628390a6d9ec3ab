// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	//lint:ignore SA1019 client-go's dialers have these types
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	streaming "k8s.io/streaming/pkg/httpstream"

	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

// forward connects to a port on the loopback of a pod, through the API server and the
// pod's kubelet. A pod of the node's network has the node's loopback.
func forward(ctx context.Context, api *kubeapi.API, namespace, pod string, port int) (net.Conn, error) {
	dialer, err := forwarder(api.Config, api.URL(kubeapi.Path(namespace, "pods", pod)+"/portforward"))
	if err != nil {
		return nil, err
	}
	type answer struct {
		conn httpstream.Connection
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		done <- answer{conn, err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			return nil, fmt.Errorf("port-forward: %v", a.err)
		}
		return open(a.conn, port)
	case <-ctx.Done(): // the dialer takes no context
		go func() {
			if a := <-done; a.conn != nil {
				a.conn.Close()
			}
		}()
		return nil, fmt.Errorf("port-forward: %w", ctx.Err())
	}
}

// forwarder asks in a WebSocket, as API servers have it since Kubernetes 1.30, and in
// SPDY where that is not understood.
func forwarder(config *rest.Config, to *url.URL) (httpstream.Dialer, error) {
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, to)
	socket, err := portforward.NewSPDYOverWebsocketDialer(to, config)
	if err != nil {
		return nil, err
	}
	return portforward.NewFallbackDialer(socket, old, func(err error) bool {
		return streaming.IsUpgradeFailure(err) || httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// forwarded is one connection of a port-forward: a stream of bytes, and one on which
// the kubelet says why it could not connect.
type forwarded struct {
	data    httpstream.Stream
	conn    httpstream.Connection
	failed  chan struct{} // closed when the error stream ended
	problem error         // set before that
	closed  sync.Once
}

func open(conn httpstream.Connection, port int) (net.Conn, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	errs, err := conn.CreateStream(headers)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("port-forward: %v", err)
	}
	errs.Close() // we say nothing in it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(headers)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("port-forward: %v", err)
	}
	f := &forwarded{data: data, conn: conn, failed: make(chan struct{})}
	go func() {
		defer close(f.failed)
		if text, err := io.ReadAll(io.LimitReader(errs, 4<<10)); err == nil && len(text) > 0 {
			f.problem = errors.New(reason(string(text)))
		}
	}()
	return f, nil
}

// reason is the end of what a kubelet says, which begins with IDs of containers.
func reason(text string) string {
	text = strings.TrimSpace(text)
	if i := strings.LastIndex(text, "dial tcp"); i >= 0 {
		return text[i:]
	}
	return text
}

func (f *forwarded) Read(p []byte) (int, error) {
	n, err := f.data.Read(p)
	if err != nil && n == 0 {
		select {
		case <-f.failed:
			if f.problem != nil {
				return 0, f.problem
			}
		case <-time.After(100 * time.Millisecond): // the reason follows the end
		}
	}
	return n, err
}

func (f *forwarded) Write(p []byte) (int, error) { return f.data.Write(p) }

func (f *forwarded) Close() error {
	f.closed.Do(func() { f.conn.Close() })
	return nil
}

// The stream has no deadlines: whoever asks closes the connection when time is up.

func (f *forwarded) SetDeadline(time.Time) error      { return nil }
func (f *forwarded) SetReadDeadline(time.Time) error  { return nil }
func (f *forwarded) SetWriteDeadline(time.Time) error { return nil }

func (f *forwarded) LocalAddr() net.Addr  { return forwardAddr{} }
func (f *forwarded) RemoteAddr() net.Addr { return forwardAddr{} }

type forwardAddr struct{}

func (forwardAddr) Network() string { return "portforward" }
func (forwardAddr) String() string  { return "portforward" }

// SPDX-License-Identifier: Apache-2.0

package signing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// answerIn is how long a signer may take: a cloud's KMS needs some 100 ms. A CA that
// waited longer would keep nodes that could ask another replica.
const answerIn = 5 * time.Second

// What passes between the two, as JSON over HTTP.
type (
	question struct {
		Key     string `json:"key"`            // the SHA-256 of the public key that the signature must be by
		Hash    string `json:"hash,omitempty"` // of Message; none: Message is signed as it is
		Salt    int    `json:"salt,omitempty"` // of RSA-PSS: its length, or that of the hash (-1); 0: not PSS
		Message []byte `json:"message"`        // the digest, or all that is signed
	}
	answer struct {
		Public    []byte `json:"public,omitempty"` // DER
		Signature []byte `json:"signature,omitempty"`
		Error     string `json:"error,omitempty"`
	}
)

const (
	publicPath = "/v1/key"
	signPath   = "/v1/sign"
	maxMessage = 64 << 10  // of a certificate that is signed as it is
	maxBody    = 128 << 10 // its base64, and the rest
)

// Ask returns the key of the signer at a URI, which it proves by a signature.
func Ask(ctx context.Context, uri string) (*Key, error) {
	path, err := parse(uri)
	if err != nil {
		return nil, err
	}
	got, err := exchange(ctx, path, http.MethodGet, publicPath, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", uri, err)
	}
	k, err := newKey(uri, got.Public)
	if err != nil {
		return nil, err
	}
	if err := k.Check(); err != nil {
		return nil, err
	}
	return k, nil
}

// exchange asks once, on a connection of its own: only then is it sure who answers.
func exchange(ctx context.Context, path, method, what string, q *question) (answer, error) {
	ctx, stop := context.WithTimeout(ctx, answerIn)
	defer stop()
	var body io.Reader = http.NoBody
	if q != nil {
		text, err := json.Marshal(q)
		if err != nil {
			return answer{}, err
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://signer"+what, body)
	if err != nil {
		return answer{}, err
	}
	client := http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, path) },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %s", ErrAway, cause(ctx, err))
	}
	defer response.Body.Close()
	return read(ctx, response)
}

// read is what an answer says.
func read(ctx context.Context, response *http.Response) (answer, error) {
	text, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		return answer{}, fmt.Errorf("%w: %s", ErrAway, cause(ctx, err))
	}
	var a answer
	if len(text) > maxBody || json.Unmarshal(text, &a) != nil {
		return answer{}, fmt.Errorf("%w: its answer is not one of culvert-signer's", ErrAway)
	}
	switch response.StatusCode {
	case http.StatusOK:
		return a, nil
	case http.StatusConflict:
		return answer{}, fmt.Errorf("%w: %s", ErrOtherKey, a.Error)
	case http.StatusServiceUnavailable:
		return answer{}, fmt.Errorf("%w: %s", ErrAway, a.Error)
	}
	return answer{}, fmt.Errorf("it refuses to sign: %s", a.Error)
}

// dial connects, and hangs up on whoever is neither root nor ourselves: another user's
// process could tell what the CA signs, or let it wait.
func dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := trusted(conn.(*net.UnixConn)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// cause says without the URL what went wrong.
func cause(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		return fmt.Sprintf("no answer within %v", answerIn)
	}
	text := err.Error()
	for _, prefix := range []string{`Get "http://signer` + publicPath + `": `, `Post "http://signer` + signPath + `": `} {
		text = strings.TrimPrefix(text, prefix)
	}
	return text
}

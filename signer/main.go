// SPDX-License-Identifier: Apache-2.0

// Command culvert-signer signs for Culvert's CA with one key, which lies in a PKCS#11 token
// or a cloud's KMS. It answers on a unix socket, for root and its own user alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/culvert-mesh/culvert/identity/signing"
	"github.com/culvert-mesh/culvert/unixsocket"
)

const usage = `Usage: culvert-signer -key URI -socket PATH

Signs for Culvert's CA with a key that the CA does not have. -key names it:

  pkcs11:module-path=/usr/lib/softhsm/libsofthsm2.so;token=culvert;object=issuer?pin-source=file:/etc/culvert/pin
  awskms:region=eu-central-1;key-id=1234abcd-12ab-34cd-56ef-1234567890ab
  cloudkms:projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/1
  azurekms:vault=NAME;name=KEY
  softkms:path=/etc/culvert/issuer.key

Clouds are entered as their own programs are: by the environment, or by what the machine
is. The PIN of a token is in a file that nobody else may read; none is taken from here.
A token that is locked or absent is tried again, and the CA is told why it waits. A PIN that
the token refuses is tried once, until the file holds another.

Flags:
`

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	flags := flag.NewFlagSet("culvert-signer", flag.ContinueOnError)
	uri := flags.String("key", "", "`URI` of the private key; required")
	socket := flags.String("socket", "", "`path` of the unix socket, in a directory that only its user may enter, and that is made; required")
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage); flags.PrintDefaults() }
	if err := flags.Parse(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		os.Exit(2)
	}
	key, err := newKey(*uri, log)
	if err == nil && (*socket == "" || flags.NArg() > 0) {
		err = errors.New("-socket is required, and nothing but flags is taken")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "culvert-signer: %v\n", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, key, *socket, log); err != nil {
		fmt.Fprintf(os.Stderr, "culvert-signer: %v\n", err)
		os.Exit(1)
	}
}

// run answers until ctx ends. A key that cannot be opened now is tried at each question.
func run(ctx context.Context, key *key, socket string, log *slog.Logger) error {
	ln, err := unixsocket.Listen(socket)
	if err != nil {
		return fmt.Errorf("-socket: %w", err)
	}
	defer ln.Close()
	log.Info("signer started", "socket", socket, "key", key.String())
	key.open() // it says how it stands
	defer key.close()
	return signing.Serve(ctx, ln, key.open)
}

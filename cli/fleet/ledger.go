// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
)

// LedgerFiles are the names of the files of a replica's ledger, in the order in which to
// copy them. They are as the replica says: whoever makes files of these names looks first.
func (t Target) LedgerFiles(ctx context.Context) ([]string, error) {
	said, err := t.ledger(ctx)
	return said.Files, err
}

type ledgerFiles struct {
	Files []string
	Piece int
}

func (t Target) ledger(ctx context.Context) (said ledgerFiles, err error) {
	body, _, err := t.get(ctx, CAAdmin, "/ledger")
	if err != nil {
		return said, err
	}
	if err := json.Unmarshal(body, &said); err != nil || said.Piece <= 0 {
		return said, errors.Join(errors.New("its /ledger is not understood"), err)
	}
	return said, nil
}

// CopyLedgerFile writes one of these files to out, and returns how long it is. A ledger
// goes on: what comes while the file is copied may be in the copy or not.
func (t Target) CopyLedgerFile(ctx context.Context, name string, out io.Writer) (size int64, err error) {
	said, err := t.ledger(ctx)
	if err != nil {
		return 0, err
	}
	for {
		body, _, err := t.get(ctx, CAAdmin, "/ledger/"+url.PathEscape(name)+"?from="+strconv.FormatInt(size, 10))
		if err != nil {
			return size, err
		}
		if _, err := out.Write(body); err != nil {
			return size, err
		}
		if size += int64(len(body)); len(body) < said.Piece {
			return size, nil
		}
		if size > maxAnswer {
			return size, fmt.Errorf("%s is longer than %d bytes", name, maxAnswer)
		}
	}
}

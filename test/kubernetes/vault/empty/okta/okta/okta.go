// SPDX-License-Identifier: Apache-2.0

// Package okta asks nobody for a second factor in this build.
package okta

import (
	"context"
	"errors"
)

var errEmpty = errors.New("it is not in this build")

type (
	Option        struct{}
	Configuration struct{ Context context.Context }
	APIClient     struct {
		UserAPI       users
		UserFactorAPI factors
	}
	User           struct{}
	UserFactorPush struct{}
	Factor         struct{ UserFactorPush *UserFactorPush }
	Verified       struct{ Links any }
	Transaction    struct {
		UserFactorPushTransactionWaiting, UserFactorPushTransaction,
		UserFactorPushTransactionRejected, UserFactorPushTransactionTimeout *struct{}
	}

	users           struct{}
	factors         struct{}
	question[T any] struct{}
)

func WithToken(string) Option  { return Option{} }
func WithOrgUrl(string) Option { return Option{} }
func WithCache(bool) Option    { return Option{} }

func NewConfiguration(...Option) (*Configuration, error) { return nil, errEmpty }
func NewAPIClient(*Configuration) *APIClient             { return nil }
func (*APIClient) GetConfig() *Configuration             { return nil }
func (User) GetId() string                               { return "" }
func (*UserFactorPush) GetId() string                    { return "" }
func (Verified) GetFactorResult() string                 { return "" }

func (users) ListUsers(context.Context) (q question[[]User])                        { return }
func (factors) ListFactors(context.Context, string) (q question[[]Factor])          { return }
func (factors) VerifyFactor(context.Context, string, string) (q question[Verified]) { return }
func (factors) GetFactorTransactionStatus(context.Context, string, string, string) (q question[Transaction]) {
	return
}

func (q question[T]) Filter(string) question[T] { return q }

func (question[T]) Execute() (answer T, response any, err error) { return answer, nil, errEmpty }

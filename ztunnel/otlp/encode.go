// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"log/slog"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Numbers of fields of opentelemetry-proto v1, which never change.
const (
	requestResourceLogs = 1 // of ExportLogsServiceRequest

	resourceLogsResource  = 1
	resourceLogsScopeLogs = 2
	resourceAttributes    = 1
	scopeLogsScope        = 1
	scopeLogsRecords      = 2
	scopeName             = 1

	recordTime           = 1
	recordSeverityNumber = 2
	recordSeverityText   = 3
	recordBody           = 5
	recordAttributes     = 6
	recordObserved       = 11

	keyValueKey   = 1
	keyValueValue = 2

	valueString = 1
	valueBool   = 2
	valueInt    = 3
	valueDouble = 4

	responsePartialSuccess = 1 // of ExportLogsServiceResponse
	partialRejected        = 1
	partialMessage         = 2
)

// scope is the instrumentation scope of all records.
const scope = "culvert.dev/ztunnel"

// severity is OpenTelemetry's number and text of a level.
func severity(level slog.Level) (number uint64, text string) {
	switch {
	case level < slog.LevelInfo:
		return 5, "DEBUG"
	case level < slog.LevelWarn:
		return 9, "INFO"
	case level < slog.LevelError:
		return 13, "WARN"
	}
	return 17, "ERROR"
}

// appendRecord appends r as a LogRecord, without tag and length.
func appendRecord(b []byte, r *slog.Record, of []slog.Attr) []byte {
	number, text := severity(r.Level)
	b = protowire.AppendTag(b, recordTime, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, uint64(r.Time.UnixNano()))
	b = protowire.AppendTag(b, recordObserved, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, uint64(r.Time.UnixNano()))
	b = protowire.AppendTag(b, recordSeverityNumber, protowire.VarintType)
	b = protowire.AppendVarint(b, number)
	b = appendString(b, recordSeverityText, text)
	b = appendMessage(b, recordBody, func(b []byte) []byte { return appendString(b, valueString, r.Message) })
	for _, a := range of {
		b = appendAttr(b, recordAttributes, a)
	}
	r.Attrs(func(a slog.Attr) bool {
		b = appendAttr(b, recordAttributes, a)
		return true
	})
	return b
}

// appendAttr appends a as KeyValues in field. Attributes of a group stand beside the
// others, behind its name and a dot if it has one.
func appendAttr(b []byte, field protowire.Number, a slog.Attr) []byte {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		for _, in := range value.Group() {
			if a.Key != "" {
				in.Key = a.Key + "." + in.Key
			}
			b = appendAttr(b, field, in)
		}
		return b
	}
	return appendMessage(b, field, func(b []byte) []byte {
		b = appendString(b, keyValueKey, a.Key)
		return appendMessage(b, keyValueValue, func(b []byte) []byte { return appendValue(b, value) })
	})
}

func appendValue(b []byte, v slog.Value) []byte {
	switch v.Kind() {
	case slog.KindBool:
		b = protowire.AppendTag(b, valueBool, protowire.VarintType)
		return protowire.AppendVarint(b, protowire.EncodeBool(v.Bool()))
	case slog.KindInt64:
		b = protowire.AppendTag(b, valueInt, protowire.VarintType)
		return protowire.AppendVarint(b, uint64(v.Int64()))
	case slog.KindUint64:
		b = protowire.AppendTag(b, valueInt, protowire.VarintType)
		return protowire.AppendVarint(b, min(v.Uint64(), math.MaxInt64))
	case slog.KindFloat64:
		b = protowire.AppendTag(b, valueDouble, protowire.Fixed64Type)
		return protowire.AppendFixed64(b, math.Float64bits(v.Float64()))
	case slog.KindTime:
		return appendString(b, valueString, v.Time().Format(time.RFC3339Nano))
	}
	return appendString(b, valueString, v.String())
}

// appendString appends text, in which what is no UTF-8 is replaced: receivers refuse it.
func appendString(b []byte, field protowire.Number, text string) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, valid(text))
}

// appendMessage appends a message that in writes. Its length is known behind it.
func appendMessage(b []byte, field protowire.Number, in func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	begin := len(b)
	b = in(b)
	length := len(b) - begin
	size := protowire.SizeVarint(uint64(length))
	b = append(b, make([]byte, size)...)
	copy(b[begin+size:], b[begin:begin+length])
	protowire.AppendVarint(b[:begin], uint64(length))
	return b
}

// request is an ExportLogsServiceRequest of records, which are encoded.
func request(resource []slog.Attr, records [][]byte) []byte {
	size := 256
	for _, r := range records {
		size += len(r) + 8
	}
	return appendMessage(make([]byte, 0, size), requestResourceLogs, func(b []byte) []byte {
		b = appendMessage(b, resourceLogsResource, func(b []byte) []byte {
			for _, a := range resource {
				b = appendAttr(b, resourceAttributes, a)
			}
			return b
		})
		return appendMessage(b, resourceLogsScopeLogs, func(b []byte) []byte {
			b = appendMessage(b, scopeLogsScope, func(b []byte) []byte { return appendString(b, scopeName, scope) })
			for _, r := range records {
				b = protowire.AppendTag(b, scopeLogsRecords, protowire.BytesType)
				b = protowire.AppendBytes(b, r)
			}
			return b
		})
	})
}

// rejected reads an ExportLogsServiceResponse: how many records the receiver did not take,
// and why. Of an answer that is none it reads nothing.
func rejected(response []byte) (records uint64, why string) {
	partial, ok := field(response, responsePartialSuccess)
	if !ok {
		return 0, ""
	}
	for len(partial) > 0 {
		number, kind, n := protowire.ConsumeTag(partial)
		if n < 0 {
			return records, why
		}
		partial = partial[n:]
		switch {
		case number == partialRejected && kind == protowire.VarintType:
			if v, n := protowire.ConsumeVarint(partial); n > 0 && int64(v) > 0 {
				records = v
			}
		case number == partialMessage && kind == protowire.BytesType:
			if v, n := protowire.ConsumeString(partial); n > 0 {
				why = v
			}
		}
		if n = protowire.ConsumeFieldValue(number, kind, partial); n < 0 {
			return records, why
		}
		partial = partial[n:]
	}
	return records, why
}

// field finds a field of bytes in a message.
func field(b []byte, want protowire.Number) ([]byte, bool) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, false
		}
		b = b[n:]
		if number == want && kind == protowire.BytesType {
			v, n := protowire.ConsumeBytes(b)
			return v, n > 0
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return nil, false
		}
		b = b[n:]
	}
	return nil, false
}

package page_test

import (
	"testing"

	"attestcsr/test/start"
)

func TestMain(m *testing.M) { start.Main(m) }

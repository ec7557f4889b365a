#![no_main]
use tp_fuzz::layout::{Width, control, header, parts};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for width in [Width::W32, Width::W64] {
        assert_eq!(header(width, data).is_some(), data.len() >= width.header());
        assert_eq!(parts(width, data).len(), data.len() / width.part());
        let wide = control(width, Width::W64, data);
        if width == Width::W32 {
            assert!(wide.len() <= data.len() * 2 + 8);
            // What was understood is understood again.
            let narrow = control(Width::W64, Width::W32, &wide);
            assert_eq!(control(Width::W32, Width::W64, &narrow), wide);
        }
    }
});

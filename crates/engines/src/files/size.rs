//! Sizes as people write them.

/// Reads `4096`, `500 MB`, `2 GiB`, `1.5T`: letters alone mean powers of 1024, as `KiB` does;
/// `kB`, `MB` and so on mean powers of 1000.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size; write for example \"500 MB\" or \"2 GiB\"");
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    // Nine digits of a fraction are a byte of a gigabyte; more say nothing.
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(bad());
    }
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let bytes = whole.checked_mul(factor).ok_or_else(bad)?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| bad())? };
    let part = u64::try_from(part * u128::from(factor) / scale).map_err(|_| bad())?;
    bytes.checked_add(part).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_that_people_write() {
        let sizes = [
            ("0", 0),
            ("4096", 4096),
            ("500 MB", 500_000_000),
            ("2 GiB", 2 << 30),
            ("2G", 2 << 30),
            (" 1.5 KiB ", 1536),
            ("0.000000001 GB", 1),
            ("16777215 TiB", 16_777_215 << 40),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size() {
        for text in
            ["", "GiB", "-1", "1 XB", "1e9", "1.2.3", ".5 G", "16777216 TiB", "1.0000000000 G"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}

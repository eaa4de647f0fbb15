//! The sizes, as DigitalOcean's public price list has them. Prices are theirs too: clients read the fields, and for an
//! owner they say what the same droplet would have cost there. Cistern itself charges nothing.

/// What a droplet is made of.
#[derive(Debug, PartialEq)]
pub struct Size {
    /// As in requests, such as `s-1vcpu-1gb`.
    pub slug: &'static str,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub vcpus: u32,
    /// Disk in GiB.
    pub disk_gib: u32,
    /// Outgoing transfer in TiB a month.
    pub transfer_tib: f64,
    /// US dollars a month.
    pub price_monthly: f64,
    /// The class, for people.
    pub class: &'static str,
}

impl Size {
    /// US dollars an hour: a month is charged as 672 hours, and five decimals are shown.
    pub fn price_hourly(&self) -> f64 {
        (self.price_monthly / 672.0 * 1e5).round() / 1e5
    }
}

const fn size(
    slug: &'static str,
    (vcpus, memory_mib, disk_gib): (u32, u32, u32),
    (transfer_tib, price_monthly): (f64, f64),
    class: &'static str,
) -> Size {
    Size {
        slug,
        memory_mib,
        vcpus,
        disk_gib,
        transfer_tib,
        price_monthly,
        class,
    }
}

/// Every size, smallest class first.
#[rustfmt::skip]
pub static SIZES: [Size; 79] = [
    size("s-1vcpu-512mb-10gb", (1, 512, 10), (0.5, 4.0), "Basic"),
    size("s-1vcpu-1gb", (1, 1024, 25), (1.0, 6.0), "Basic"),
    size("s-1vcpu-2gb", (1, 2048, 50), (2.0, 12.0), "Basic"),
    size("s-2vcpu-2gb", (2, 2048, 60), (3.0, 18.0), "Basic"),
    size("s-2vcpu-4gb", (2, 4096, 80), (4.0, 24.0), "Basic"),
    size("s-4vcpu-8gb", (4, 8192, 160), (5.0, 48.0), "Basic"),
    size("s-8vcpu-16gb", (8, 16384, 320), (6.0, 96.0), "Basic"),
    size("s-1vcpu-1gb-amd", (1, 1024, 25), (1.0, 7.0), "Basic AMD"),
    size("s-1vcpu-2gb-amd", (1, 2048, 50), (2.0, 14.0), "Basic AMD"),
    size("s-2vcpu-2gb-amd", (2, 2048, 60), (3.0, 21.0), "Basic AMD"),
    size("s-2vcpu-4gb-amd", (2, 4096, 80), (4.0, 28.0), "Basic AMD"),
    size("s-2vcpu-8gb-amd", (2, 8192, 100), (5.0, 42.0), "Basic AMD"),
    size("s-4vcpu-8gb-amd", (4, 8192, 160), (5.0, 56.0), "Basic AMD"),
    size("s-4vcpu-16gb-amd", (4, 16384, 200), (8.0, 84.0), "Basic AMD"),
    size("s-8vcpu-16gb-amd", (8, 16384, 320), (6.0, 112.0), "Basic AMD"),
    size("s-8vcpu-32gb-amd", (8, 32768, 400), (10.0, 168.0), "Basic AMD"),
    size("s-1vcpu-1gb-intel", (1, 1024, 25), (1.0, 7.0), "Basic Intel"),
    size("s-1vcpu-2gb-intel", (1, 2048, 50), (2.0, 14.0), "Basic Intel"),
    size("s-2vcpu-2gb-intel", (2, 2048, 60), (3.0, 21.0), "Basic Intel"),
    size("s-2vcpu-4gb-intel", (2, 4096, 80), (4.0, 28.0), "Basic Intel"),
    size("s-2vcpu-8gb-160gb-intel", (2, 8192, 160), (5.0, 48.0), "Basic Intel"),
    size("s-4vcpu-8gb-intel", (4, 8192, 160), (5.0, 56.0), "Basic Intel"),
    size("s-4vcpu-16gb-320gb-intel", (4, 16384, 320), (8.0, 96.0), "Basic Intel"),
    size("s-8vcpu-16gb-intel", (8, 16384, 320), (6.0, 112.0), "Basic Intel"),
    size("s-8vcpu-32gb-640gb-intel", (8, 32768, 640), (10.0, 192.0), "Basic Intel"),
    size("c-2", (2, 4096, 25), (4.0, 42.0), "CPU-Optimized"),
    size("c-4", (4, 8192, 50), (5.0, 84.0), "CPU-Optimized"),
    size("c-8", (8, 16384, 100), (6.0, 168.0), "CPU-Optimized"),
    size("c-16", (16, 32768, 200), (7.0, 336.0), "CPU-Optimized"),
    size("c-32", (32, 65536, 400), (9.0, 672.0), "CPU-Optimized"),
    size("c-48", (48, 98304, 600), (11.0, 1008.0), "CPU-Optimized"),
    size("c2-2vcpu-4gb", (2, 4096, 50), (4.0, 47.0), "CPU-Optimized 2x SSD"),
    size("c2-4vcpu-8gb", (4, 8192, 100), (5.0, 94.0), "CPU-Optimized 2x SSD"),
    size("c2-8vcpu-16gb", (8, 16384, 200), (6.0, 188.0), "CPU-Optimized 2x SSD"),
    size("c2-16vcpu-32gb", (16, 32768, 400), (7.0, 376.0), "CPU-Optimized 2x SSD"),
    size("c2-32vcpu-64gb", (32, 65536, 800), (9.0, 752.0), "CPU-Optimized 2x SSD"),
    size("c2-48vcpu-96gb", (48, 98304, 1200), (11.0, 1128.0), "CPU-Optimized 2x SSD"),
    size("g-2vcpu-8gb", (2, 8192, 25), (4.0, 63.0), "General Purpose"),
    size("g-4vcpu-16gb", (4, 16384, 50), (5.0, 126.0), "General Purpose"),
    size("g-8vcpu-32gb", (8, 32768, 100), (6.0, 252.0), "General Purpose"),
    size("g-16vcpu-64gb", (16, 65536, 200), (7.0, 504.0), "General Purpose"),
    size("g-32vcpu-128gb", (32, 131_072, 400), (8.0, 1008.0), "General Purpose"),
    size("g-40vcpu-160gb", (40, 163_840, 500), (9.0, 1260.0), "General Purpose"),
    size("gd-2vcpu-8gb", (2, 8192, 50), (4.0, 68.0), "General Purpose 2x SSD"),
    size("gd-4vcpu-16gb", (4, 16384, 100), (5.0, 136.0), "General Purpose 2x SSD"),
    size("gd-8vcpu-32gb", (8, 32768, 200), (6.0, 272.0), "General Purpose 2x SSD"),
    size("gd-16vcpu-64gb", (16, 65536, 400), (7.0, 544.0), "General Purpose 2x SSD"),
    size("gd-32vcpu-128gb", (32, 131_072, 800), (8.0, 1088.0), "General Purpose 2x SSD"),
    size("gd-40vcpu-160gb", (40, 163_840, 1000), (9.0, 1360.0), "General Purpose 2x SSD"),
    size("m-2vcpu-16gb", (2, 16384, 50), (4.0, 84.0), "Memory-Optimized"),
    size("m-4vcpu-32gb", (4, 32768, 100), (6.0, 168.0), "Memory-Optimized"),
    size("m-8vcpu-64gb", (8, 65536, 200), (7.0, 336.0), "Memory-Optimized"),
    size("m-16vcpu-128gb", (16, 131_072, 400), (8.0, 672.0), "Memory-Optimized"),
    size("m-24vcpu-192gb", (24, 196_608, 600), (9.0, 1008.0), "Memory-Optimized"),
    size("m-32vcpu-256gb", (32, 262_144, 800), (10.0, 1344.0), "Memory-Optimized"),
    size("m3-2vcpu-16gb", (2, 16384, 150), (4.0, 104.0), "Memory-Optimized 3x SSD"),
    size("m3-4vcpu-32gb", (4, 32768, 300), (6.0, 208.0), "Memory-Optimized 3x SSD"),
    size("m3-8vcpu-64gb", (8, 65536, 600), (7.0, 416.0), "Memory-Optimized 3x SSD"),
    size("m3-16vcpu-128gb", (16, 131_072, 1200), (8.0, 832.0), "Memory-Optimized 3x SSD"),
    size("m3-24vcpu-192gb", (24, 196_608, 1800), (9.0, 1248.0), "Memory-Optimized 3x SSD"),
    size("m3-32vcpu-256gb", (32, 262_144, 2400), (10.0, 1664.0), "Memory-Optimized 3x SSD"),
    size("m6-2vcpu-16gb", (2, 16384, 300), (4.0, 131.0), "Memory-Optimized 6x SSD"),
    size("m6-4vcpu-32gb", (4, 32768, 600), (6.0, 262.0), "Memory-Optimized 6x SSD"),
    size("m6-8vcpu-64gb", (8, 65536, 1200), (7.0, 524.0), "Memory-Optimized 6x SSD"),
    size("m6-16vcpu-128gb", (16, 131_072, 2400), (8.0, 1048.0), "Memory-Optimized 6x SSD"),
    size("m6-24vcpu-192gb", (24, 196_608, 3600), (9.0, 1572.0), "Memory-Optimized 6x SSD"),
    size("m6-32vcpu-256gb", (32, 262_144, 4800), (10.0, 2096.0), "Memory-Optimized 6x SSD"),
    size("so-2vcpu-16gb", (2, 16384, 300), (4.0, 131.0), "Storage-Optimized"),
    size("so-4vcpu-32gb", (4, 32768, 600), (6.0, 262.0), "Storage-Optimized"),
    size("so-8vcpu-64gb", (8, 65536, 1200), (7.0, 524.0), "Storage-Optimized"),
    size("so-16vcpu-128gb", (16, 131_072, 2400), (8.0, 1048.0), "Storage-Optimized"),
    size("so-24vcpu-192gb", (24, 196_608, 3600), (9.0, 1572.0), "Storage-Optimized"),
    size("so-32vcpu-256gb", (32, 262_144, 4800), (10.0, 2096.0), "Storage-Optimized"),
    size("so1_5-2vcpu-16gb", (2, 16384, 450), (4.0, 163.0), "Storage-Optimized 1.5x SSD"),
    size("so1_5-4vcpu-32gb", (4, 32768, 900), (6.0, 326.0), "Storage-Optimized 1.5x SSD"),
    size("so1_5-8vcpu-64gb", (8, 65536, 1800), (7.0, 652.0), "Storage-Optimized 1.5x SSD"),
    size("so1_5-16vcpu-128gb", (16, 131_072, 3600), (8.0, 1304.0), "Storage-Optimized 1.5x SSD"),
    size("so1_5-24vcpu-192gb", (24, 196_608, 5400), (9.0, 1956.0), "Storage-Optimized 1.5x SSD"),
    size("so1_5-32vcpu-256gb", (32, 262_144, 7200), (10.0, 2608.0), "Storage-Optimized 1.5x SSD"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_once_each_and_prices_as_published() {
        let slugs: std::collections::HashSet<_> = SIZES.iter().map(|size| size.slug).collect();
        assert_eq!(slugs.len(), SIZES.len());
        for (slug, hourly) in [
            ("s-1vcpu-1gb", 0.00893),
            ("s-1vcpu-2gb", 0.01786),
            ("c-2", 0.0625),
        ] {
            let size = SIZES.iter().find(|size| size.slug == slug).expect("it is there");
            assert!((size.price_hourly() - hourly).abs() < 1e-9, "{slug}");
        }
    }
}

//! Making the options of an overlay fit.

use std::path::{Component, Path, PathBuf};

/// Most bytes of options that mount(2) takes: one page with its terminating zero.
pub(crate) const MAX_DATA: usize = 4095;

/// Options for mount(2), and the directory to which paths in them are relative.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OverlayData {
    /// The options, joined.
    pub(crate) data: String,
    /// Directory to be in while mounting.
    pub(crate) base: Option<PathBuf>,
}

/// Joins options. If they are longer than [`MAX_DATA`], the paths of layers are made relative to
/// the directory they have in common; `None` if they do not fit even so.
pub(crate) fn fit(options: &[String]) -> Option<OverlayData> {
    let data = options.join(",");
    if data.len() <= MAX_DATA {
        return Some(OverlayData { data, base: None });
    }
    let layers: Vec<&str> = options
        .iter()
        .filter_map(|option| option.strip_prefix("lowerdir="))
        .flat_map(split_layers)
        .collect();
    let base = common_directory(&layers)?;
    let data = options
        .iter()
        .map(|option| match option.split_once('=') {
            Some(("lowerdir", layers)) => {
                let layers: Vec<&str> = split_layers(layers)
                    .map(|layer| relative(layer, &base))
                    .collect();
                format!("lowerdir={}", layers.join(":"))
            }
            Some((key @ ("upperdir" | "workdir"), path)) => {
                format!("{key}={}", relative(path, &base))
            }
            _ => option.clone(),
        })
        .collect::<Vec<_>>()
        .join(",");
    (data.len() <= MAX_DATA).then_some(OverlayData {
        data,
        base: Some(base),
    })
}

/// Splits at colons that no backslash precedes. Layers after `::` hold only data and stay so,
/// because an empty element is kept.
fn split_layers(list: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    list.split(move |character| {
        let separator = character == ':' && !escaped;
        escaped = character == '\\' && !escaped;
        separator
    })
}

/// The longest directory above all layers; `None` unless all are absolute paths.
fn common_directory(layers: &[&str]) -> Option<PathBuf> {
    let mut paths = layers.iter().filter(|layer| !layer.is_empty());
    let mut common = Path::new(paths.next()?).parent()?.to_path_buf();
    for path in paths {
        let path = Path::new(path);
        while !path.starts_with(&common) || path == common {
            if !common.pop() {
                return None;
            }
        }
    }
    let plain = common
        .components()
        .all(|component| matches!(component, Component::RootDir | Component::Normal(_)));
    (common.is_absolute() && plain).then_some(common)
}

fn relative<'a>(path: &'a str, base: &Path) -> &'a str {
    Path::new(path)
        .strip_prefix(base)
        .ok()
        .and_then(Path::to_str)
        .filter(|path| !path.is_empty())
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{MAX_DATA, fit};

    const SNAPSHOTS: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";

    fn options(layers: &[String], upper: &str) -> Vec<String> {
        vec![
            "index=off".into(),
            format!("workdir={upper}/work"),
            format!("upperdir={upper}/fs"),
            format!("lowerdir={}", layers.join(":")),
        ]
    }

    #[test]
    fn what_fits_is_left_alone() {
        let options = options(&["/a".into(), "/b".into()], "/u");
        let fitted = fit(&options).unwrap();
        assert_eq!(fitted.base, None);
        assert_eq!(
            fitted.data,
            "index=off,workdir=/u/work,upperdir=/u/fs,lowerdir=/a:/b"
        );
    }

    #[test]
    fn many_layers_become_relative_to_what_they_have_in_common() {
        let layers: Vec<String> = (1..=300).map(|n| format!("{SNAPSHOTS}/{n}/fs")).collect();
        let fitted = fit(&options(&layers, &format!("{SNAPSHOTS}/999"))).unwrap();
        assert_eq!(fitted.base.as_deref(), Some(Path::new(SNAPSHOTS)));
        assert!(fitted.data.len() <= MAX_DATA);
        assert!(
            fitted
                .data
                .starts_with("index=off,workdir=999/work,upperdir=999/fs,lowerdir=1/fs:2/fs:"),
            "{}",
            fitted.data
        );
    }

    #[test]
    fn an_upper_directory_elsewhere_stays_absolute() {
        let layers: Vec<String> = (1..=100).map(|n| format!("{SNAPSHOTS}/{n}/fs")).collect();
        let fitted = fit(&options(&layers, "/elsewhere")).unwrap();
        assert!(
            fitted
                .data
                .contains("upperdir=/elsewhere/fs,lowerdir=1/fs:")
        );
    }

    #[test]
    fn escaped_colons_do_not_separate() {
        let layers: Vec<String> = (1..=100)
            .map(|n| format!("{SNAPSHOTS}/{n}\\:x/fs"))
            .collect();
        let fitted = fit(&options(&layers, "/u")).unwrap();
        assert!(fitted.data.ends_with(":99\\:x/fs:100\\:x/fs"));
    }

    #[test]
    fn what_cannot_be_shortened_is_refused() {
        let unrelated: Vec<String> = (1..=100)
            .map(|n| format!("/{n}{}", "x".repeat(100)))
            .collect();
        assert_eq!(fit(&options(&unrelated, "/u")), None);
        let too_many: Vec<String> = (1..=2000).map(|n| format!("{SNAPSHOTS}/{n}/fs")).collect();
        assert_eq!(fit(&options(&too_many, "/u")), None);
    }
}

//! Previews: what the latents roughly look like, without the VAE.

use candle_core::Tensor;

use crate::{Error, Image, Result};

/// Red, green and blue of each latent channel of SD 1.x, -1 to 1: a linear fit of the VAE's decoder,
/// the factors that ComfyUI uses.
const FACTORS: [[f32; 3]; 4] = [
    [0.3512, 0.2297, 0.3227],
    [0.3250, 0.4974, 0.2350],
    [-0.2829, 0.1762, 0.2721],
    [-0.2120, -0.2616, -0.7177],
];

/// A small picture of latents `(1, 4, h, w)`, one pixel for each place: `h × w`.
///
/// # Errors
/// Fails if the latents have another shape.
pub fn preview(latents: &Tensor) -> Result<Image> {
    let (_, channels, height, width) = latents.dims4()?;
    if channels != FACTORS.len() {
        return Err(Error::InvalidRequest {
            field: "latents",
            found: format!("of {channels} channels"),
            rule: "a preview takes 4".into(),
        });
    }
    let planes = latents.flatten_all()?.to_vec1::<f32>()?;
    let pixels = (0..height * width)
        .flat_map(|pixel| {
            let mut color = [0.0f32; 3];
            for (channel, factors) in FACTORS.iter().enumerate() {
                let value = planes[channel * height * width + pixel];
                for (color, factor) in color.iter_mut().zip(factors) {
                    *color += value * factor;
                }
            }
            color.map(|value| ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8)
        })
        .collect();
    Ok(Image { width: width as u32, height: height as u32, pixels })
}

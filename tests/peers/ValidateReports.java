import com.pixelmed.validate.DicomSRValidator;

/** Validates many reports in one process: loading the templates takes longer than all of them. */
class ValidateReports {
    public static void main(String[] paths) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        for (String path : paths) {
            System.out.println("File: " + path);
            System.out.print(validator.validate(path));
        }
    }
}
